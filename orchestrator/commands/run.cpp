// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/file.hpp"
#include "orchestrator/commands/commands.hpp"
#include "orchestrator/config.hpp"
#include "orchestrator/events.hpp"
#include "orchestrator/exit_record.hpp"
#include "orchestrator/launch.hpp"
#include "orchestrator/run_folder.hpp"
#include "orchestrator/run_plan.hpp"
#include "orchestrator/run_stage.hpp"
#include "orchestrator/slurm/submit.hpp"
#include "orchestrator/stop_file.hpp"
#include "orchestrator/supervisor.hpp"

namespace demist::cli {
namespace {

// What the user names, and how he changes it.
struct Given {
  std::string recipe;                  // as he named it
  std::vector<std::string> overrides;  // --set
};

Given given_by(const Options& options) {
  Given given{find_recipe(options.positionals().front()).string(), options.all("set")};
  if (options.has("ranks"))
    given.overrides.push_back("parallel.ranks=" + std::to_string(options.integer("ranks", 1, 1)));
  return given;
}

// Whose hash the caller names: a run folder may have been used for another run meanwhile.
void refuse_other_recipe(const RunConfig& run, const Options& options) {
  const auto expected = options.find("expect");
  if (!expected || *expected == run.hash) return;
  throw ConfigError(run.record.empty()
                        ? "the recipe has changed since this job was submitted; submit it again"
                        : run.run_dir.string() + " has been started with another recipe since " +
                              "this job was submitted; submit it again");
}

// What the run folder says about a run, and how it was started, changes only when nothing stands in
// the way.
void open_run(const RunConfig& run, const SupervisorOptions& options, const Launch& launch) {
  if (run.record.empty()) refuse_record(run, launch.recipe);
  fs::create_directories(run.run_dir);
  // The ranks of a supervisor that was killed save before they go, and a batch script starts the
  // next one at once.
  const FileLock lock(run.run_dir / "lock", options.allocation ? kRankPatience : kLockPatience);
  check_stages(run, options.redo);
  if (run.record.empty()) {
    slurm::keep_record_of_jobs(run);
    write_record(run);
  }
  // A batch script heeds a request that came while its job waited, and `demist submit` has said how
  // it is started. Who starts a run by hand wants it to go on, in an allocation too.
  if (options.allocation && options.allocation->in_batch_script()) return;
  fs::remove(run.run_dir / kStopFile);
  if (options.allocation) return;   // the shell of the allocation does not come back
  if (!run.record.empty()) return;  // it says already from what, and how
  write_launch(run.run_dir, launch);
}

// With what `demist resume` starts it again, from whatever folder.
Launch launch_of(const RunConfig& run, const Options& options, const Given& given) {
  Launch launch;
  launch.recipe = fs::absolute(given.recipe).string();
  launch.overrides = given.overrides;
  launch.overrides.push_back("run_dir=" + fs::absolute(run.run_dir).lexically_normal().string());
  launch.launcher = options.get("launcher", "");
  launch.stage = options.get("stage", "");
  return launch;
}

Launcher launcher_of(const Options& options) {
  Launcher launcher(options.get("launcher", "mpirun"));
  const bool srun = launcher.is_srun();
  for (const char* option : {"ranks-per-node", "min-nodes"})
    if (!srun && options.has(option))
      throw ConfigError(std::string("--") + option + " is for --launcher srun; use --ranks");
  if (srun && options.has("ranks"))
    throw ConfigError("--ranks is for mpirun; srun starts --ranks-per-node on each node");
  return launcher;
}

void open_allocation(const RunConfig& run, const Options& options, SupervisorOptions& supervisor) {
  if (supervisor.launcher.is_srun())
    supervisor.allocation = std::make_shared<slurm::Allocation>(
        run.run_dir, slurm::CrewRequest{options.integer("ranks-per-node", 1, 1),
                                        options.integer("min-nodes", 1, 1), run.tensor_parallel});
  else if (auto hosts = hosts_in(supervisor.launcher.options()); !hosts.empty())
    supervisor.hosts = std::make_shared<Hosts>(run.run_dir, std::move(hosts), run.tensor_parallel);
}

// Leaves what `demist status` must know of a supervisor.
int supervise_and_tell(const RunConfig& run, const SupervisorOptions& options,
                       const Launch& launch) {
  open_run(run, options, launch);
  const nlohmann::ordered_json me{{"host", host_name()}, {"process", ::getpid()}};
  nlohmann::ordered_json fields = me;
  fields["srun"] = options.allocation != nullptr;
  append_event(run.run_dir, "run_start", fields);
  int code = static_cast<int>(ExitCode::internal);
  const mpi::Outcome outcome = mpi::attempt([&] {
    require_inputs(run, options.only);
    code = supervise(run, options);
  });
  if (!outcome.message.empty()) code = static_cast<int>(outcome.code);
  fields = me;
  fields["code"] = code;
  if (!outcome.message.empty()) fields["problem"] = outcome.message;
  append_event(run.run_dir, "run_end", fields);
  if (!outcome.message.empty()) throw Error(outcome.code, outcome.message);
  return code;
}

}  // namespace

int run_recipe(const Arguments& arguments, const mpi::Comm&) {
  Options options("demist run RECIPE [options]",
                  "Runs every stage of a recipe (a file, or the name of one of configs/) on this\n"
                  "machine, skips what is done already, and ends with a table and samples.\n"
                  "Ctrl-C saves and stops; run the same command to go on. A second Ctrl-C stops\n"
                  "at once.");
  options.positional("RECIPE")
      .value("ranks", "N", "MPI processes; default: the recipe's parallel.ranks")
      .list("set", "PATH=VALUE", "override a field of the recipe; may be repeated")
      .value("stage", "NAME", "only this stage; default: all")
      .value("expect", "HASH", "refuse a recipe whose --dry-run shows another hash")
      .flag("recorded",
            "RECIPE is a run folder: go on from the record there, whatever has become of the "
            "recipe that it was started from (what jobs do)")
      .value(
          "launcher", "COMMAND",
          "mpirun (default) or srun, or a path to it, with options: \"mpirun --hostfile hosts\".\n"
          "srun takes the nodes of the allocation that still work, mpirun those hosts")
      .value("ranks-per-node", "N", "srun: ranks on each node; default: 1")
      .value("min-nodes", "N", "srun: fewer working nodes end with code 75; default: 1")
      .flag("redo", "delete and repeat stages made with other settings, or whose result is gone")
      .flag("dry-run", "check the recipe, print it with all defaults filled in, and exit");
  if (!options.parse(arguments)) return 0;
  const bool recorded = options.has("recorded");
  if (recorded && !options.all("set").empty())
    throw ConfigError("--set changes a recipe, and --recorded takes one as it is");
  const Given given = recorded ? Given{} : given_by(options);
  const RunConfig run = recorded ? load_record(options.positionals().front())
                                 : load_recipe(given.recipe, given.overrides);
  refuse_other_recipe(run, options);
  SupervisorOptions supervisor;
  supervisor.run_dir = run.run_dir.string();
  supervisor.record = recorded ? run.record : record_hash(run);
  supervisor.ranks = options.integer("ranks", run.ranks, 1);
  supervisor.progress = detect_progress_style();
  supervisor.redo = options.has("redo");
  if (options.has("stage")) supervisor.only = run.stage(*options.find("stage")).name;
  supervisor.launcher = launcher_of(options);
  const Launch launch = recorded ? Launch{} : launch_of(run, options, given);
  check_names(launch);
  if (options.has("dry-run")) {
    std::printf("%s# stages: %s\n# hash: %s\n", run.resolved.c_str(), stage_names(run).c_str(),
                run.hash.c_str());
    return 0;
  }
  open_allocation(run, options, supervisor);
  return supervise_and_tell(run, supervisor, launch);
}

}  // namespace demist::cli
