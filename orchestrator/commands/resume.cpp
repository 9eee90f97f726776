// SPDX-License-Identifier: Apache-2.0
#include "core/error.hpp"
#include "core/file.hpp"
#include "orchestrator/commands/commands.hpp"
#include "orchestrator/launch.hpp"
#include "orchestrator/run_folder.hpp"
#include "orchestrator/slurm/run_facts.hpp"
#include "orchestrator/slurm/submit.hpp"

namespace demist::cli {

int resume(const Arguments& arguments, const mpi::Comm& world) {
  Options options("demist resume RUN [options]",
                  "Goes on with a run as it was started: submits it again, or runs it here. What\n"
                  "is done stays done; training goes on from the last checkpoint, on any number\n"
                  "of ranks.");
  options.positional("RUN")
      .value("nodes", "N|MIN-MAX", "submitted runs: other nodes than last time")
      .value("time", "TIME", "submitted runs: another time limit")
      .value("ranks", "N", "runs on this machine: other ranks than last time");
  if (!options.parse(arguments)) return 0;
  const fs::path folder = slurm::find_run(options.positionals().front());
  Launch launch = read_launch(folder);
  // Not where it was started: this may be a copy, whose original goes on by itself.
  std::erase_if(launch.overrides,
                [](const std::string& assignment) { return assignment.starts_with("run_dir="); });
  launch.overrides.push_back("run_dir=" + fs::absolute(folder).lexically_normal().string());
  // Whatever has become of the recipe since.
  const bool whole = has_whole_record(folder);
  if (launch.submission) {
    if (options.has("ranks")) throw ConfigError("--ranks: this run was submitted; use --nodes");
    launch.submission->nodes = options.get("nodes", launch.submission->nodes);
    launch.submission->time = options.get("time", launch.submission->time);
    return slurm::submit(launch, false, whole ? folder : fs::path());
  }
  if (options.has("nodes") || options.has("time"))
    throw ConfigError("--nodes and --time are for submitted runs; use --ranks, or demist submit");
  Arguments again{whole ? folder.string() : launch.recipe};
  if (whole)
    again.emplace_back("--recorded");
  else
    for (const std::string& assignment : launch.overrides)
      again.insert(again.end(), {"--set", assignment});
  if (!launch.launcher.empty()) again.insert(again.end(), {"--launcher", launch.launcher});
  if (!launch.stage.empty()) again.insert(again.end(), {"--stage", launch.stage});
  if (options.has("ranks")) again.insert(again.end(), {"--ranks", *options.find("ranks")});
  return run_recipe(again, world);
}

}  // namespace demist::cli
