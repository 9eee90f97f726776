// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include "core/error.hpp"
#include "orchestrator/commands/commands.hpp"
#include "orchestrator/config.hpp"
#include "orchestrator/run_stage.hpp"
#include "orchestrator/supervisor.hpp"

namespace demist::cli {

int run_recipe(const Arguments& arguments, const mpi::Comm&) {
  Options options("demist run RECIPE [options]",
                  "Runs every stage of a recipe (a file, or the name of one of configs/) on this\n"
                  "machine, skips what is done already, and ends with a table and samples.\n"
                  "Ctrl-C saves and stops; run the same command to go on. A second Ctrl-C stops\n"
                  "at once.");
  options.positional("RECIPE")
      .value("ranks", "N", "MPI processes; default: the recipe's parallel.ranks")
      .list("set", "PATH=VALUE", "override a field of the recipe; may be repeated")
      .flag("redo", "delete and repeat stages made with other settings, or whose result is gone")
      .flag("dry-run", "check the recipe, print it with all defaults filled in, and exit");
  if (!options.parse(arguments)) return 0;
  SupervisorOptions supervisor;
  supervisor.recipe = find_recipe(options.positionals().front()).string();
  supervisor.overrides = options.all("set");
  if (options.has("ranks")) {
    supervisor.overrides.push_back("parallel.ranks=" +
                                   std::to_string(options.integer("ranks", 1, 1)));
  }
  const RunConfig run = load_recipe(supervisor.recipe, supervisor.overrides);
  if (options.has("dry-run")) {
    std::printf("%s# stages: %s\n# hash: %s\n", run.resolved.c_str(), stage_names(run).c_str(),
                run.hash.c_str());
    return 0;
  }
  supervisor.ranks = run.ranks;
  supervisor.progress = detect_progress_style();
  supervisor.redo = options.has("redo");
  return supervise(run, supervisor);
}

}  // namespace demist::cli
