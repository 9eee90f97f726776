// SPDX-License-Identifier: Apache-2.0
#include "core/error.hpp"
#include "orchestrator/commands/commands.hpp"
#include "orchestrator/config.hpp"
#include "orchestrator/replay.hpp"
#include "orchestrator/run_folder.hpp"
#include "orchestrator/run_stage.hpp"

namespace demist::cli {
namespace {

// Before anything of the stage is touched.
void require_whole_groups(const RunConfig& run, const StageConfig& stage, int ranks) {
  const int tensor = run.tensor_parallel;
  if (!std::holds_alternative<TrainingStage>(stage.work) || ranks % tensor == 0) return;
  throw ConfigError("stage " + stage.name + " runs on " + std::to_string(ranks) +
                    " rank(s), no multiple of parallel.tensor = " + std::to_string(tensor) +
                    "; start " + std::to_string((ranks / tensor + 1) * tensor) +
                    " with mpirun -n, or lower it");
}

RunConfig read_recipe(const Options& options) {
  const std::string& given = options.positionals().front();
  if (options.has("record")) return load_record(given, RanksOf::launcher, *options.find("record"));
  return load_recipe(find_recipe(given), options.all("set"), RanksOf::launcher);
}

// A recipe that nobody finds or understands is the user's error, one that only some ranks do not is
// their machine's trouble.
RunConfig open_recipe(const mpi::Comm& world, const Options& options) {
  RunConfig run;
  try {
    mpi::together_alike(world, "read recipe", [&] {
      try {
        run = read_recipe(options);
      } catch (const ConfigError& error) {
        throw DataError(error.what());
      }
    });
  } catch (const Error& error) {
    if (error.code() == ExitCode::data) throw AgreedError(ExitCode::usage, error.what());
    // Who cannot see the run folder must not make one. Any other error may be about the run that
    // works there now.
    std::error_code unseen;
    if (options.has("record") && error.code() == ExitCode::environment &&
        fs::is_directory(options.positionals().front(), unseen))
      leave_reason(options.positionals().front(), options.get("stage", ""), world.rank(),
                   mpi::attempt([] { throw; }));
    throw;
  }
  return run;
}

}  // namespace

int train(const Arguments& arguments, const mpi::Comm& world) {
  Options options(
      "demist train RECIPE --stage NAME [options]",
      "Runs one stage of a recipe on the ranks that mpirun or srun started, from its\n"
      "newest checkpoint if it has one. SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 save\n"
      "and exit with code 75; a second SIGINT stops at once. (mpirun ends its ranks on\n"
      "SIGINT: send it SIGUSR1, or use `demist run`.)");
  options.positional("RECIPE")
      .value("stage", "NAME", "the stage to run")
      .list("set", "PATH=VALUE", "override a field of the recipe; may be repeated")
      .value("record", "HASH",
             "of `demist run`: RECIPE is its run folder; work from the record there, as long as "
             "that has this hash")
      .value("replay-step", "S",
             "do step S (from 0) again beside the run, and hold it against the run's metrics and "
             "checkpoint; 6: it differs")
      .value("progress", "STYLE", "auto, terminal (in place), lines or none");
  if (!options.parse(arguments)) return 0;
  if (options.has("record") && !options.all("set").empty())
    throw ConfigError("--set changes a recipe, and --record takes one as it is");
  const RunConfig run = open_recipe(world, options);
  const std::string style = options.choice("progress", {"auto", "terminal", "lines", "none"});
  ProgressStyle progress = detect_progress_style();
  if (style == "terminal") progress = ProgressStyle::terminal;
  if (style == "lines") progress = ProgressStyle::lines;
  if (style == "none") progress = ProgressStyle::none;
  if (!options.has("stage"))
    throw ConfigError("--stage is missing; this recipe has: " + stage_names(run));
  const StageConfig& stage = run.stage(*options.find("stage"));
  require_whole_groups(run, stage, world.size());
  if (options.has("replay-step")) {
    replay_step(world, run, stage, options.integer<std::int64_t>("replay-step", 0, 0));
    return 0;
  }
  return static_cast<int>(run_stage(world, run, stage, progress));
}

}  // namespace demist::cli
