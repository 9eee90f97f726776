// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/slurm/submit.hpp"

#include "orchestrator/commands/commands.hpp"
#include "orchestrator/config.hpp"

namespace demist::cli {

int submit(const Arguments& arguments, const mpi::Comm&) {
  Options options(
      "demist submit RECIPE --nodes N [options]",
      "Runs a recipe as a Slurm job. The batch script stands in the run folder (submit.sh); in\n"
      "the job, `demist run` starts the ranks with srun, starts them again when some die, on the\n"
      "nodes that still work, and before the time limit saves and is requeued. Submitting the\n"
      "same recipe twice is harmless. slurm/README.md is the guide.");
  options.positional("RECIPE")
      .value("nodes", "N|MIN-MAX", "nodes; with a range, as many as there are; default: 1")
      .value("ntasks-per-node", "N", "ranks on each node; default: the profile's")
      .value("time", "TIME",
             "time limit of a job, as 12:00:00 or 2-00:00:00; default: the profile's")
      .value("cluster", "PROFILE", "file or name of a cluster profile; default: \"default\"")
      .value("stages", "HOW", "one: all stages in one job (default); jobs: dependent jobs")
      .value("chain", "N", "N jobs one after another, for clusters that do not requeue")
      .list("set", "PATH=VALUE", "override a field of the recipe; may be repeated")
      .flag("dry-run", "print the batch scripts and the sbatch commands, in their order, and exit");
  if (!options.parse(arguments)) return 0;
  Launch launch;
  launch.recipe = find_recipe(options.positionals().front()).string();
  launch.overrides = options.all("set");
  Submission& asked = launch.submission.emplace();
  asked.nodes = options.get("nodes", "1");
  asked.ntasks_per_node = options.integer("ntasks-per-node", 0, 1);
  asked.time = options.get("time", "");
  asked.cluster = options.get("cluster", "");
  if (fs::is_regular_file(asked.cluster)) asked.cluster = fs::absolute(asked.cluster).string();
  asked.stage_jobs = options.choice("stages", {"one", "jobs"}) == "jobs";
  asked.chain = options.integer("chain", 1, 1);
  if (asked.stage_jobs && asked.chain > 1)
    throw ConfigError("--chain and --stages jobs exclude each other: each stage has its own job");
  return slurm::submit(launch, options.has("dry-run"));
}

}  // namespace demist::cli
