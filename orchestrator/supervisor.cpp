// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/supervisor.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <thread>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "orchestrator/attempts.hpp"
#include "orchestrator/goodput.hpp"
#include "orchestrator/run_folder.hpp"
#include "orchestrator/run_plan.hpp"
#include "orchestrator/signal_relay.hpp"
#include "orchestrator/signals.hpp"
#include "orchestrator/stage_state.hpp"
#include "orchestrator/summary.hpp"

namespace demist {
namespace {

bool uses_all_ranks(const StageConfig& stage) {
  return !std::holds_alternative<PrepareStage>(stage.work) &&
         !std::holds_alternative<TokenizerStage>(stage.work);
}

void report(const RunConfig& run) {
  const RunSummary summary = summarize(run);
  atomic_write(run.run_dir / "summary.json", to_json(summary) + "\n");
  for (const StageConfig& stage : run.stages) {
    const auto* score = std::get_if<ScoreStage>(&stage.work);
    if (score == nullptr) continue;
    std::fputs(format_samples(stage.folder / "samples.jsonl", score->samples).c_str(), stdout);
  }
  std::printf("\n%s\n%s\n%s\n", format_table(summary).c_str(),
              format(goodput_of(run.run_dir)).c_str(), (run.run_dir / "summary.json").c_str());
}

}  // namespace

void refuse_record(const RunConfig& run, const fs::path& recipe) {
  std::error_code absent;
  if (!fs::equivalent(recipe, run.run_dir / "recipe.textproto", absent)) return;
  if (!is_record(recipe))
    throw ConfigError(recipe.string() +
                      " stands where the record of its run is written; move it, or give the run "
                      "another folder: --set run_dir=...");
  try {
    check_stages(run, /*redo=*/false);
  } catch (const ConfigError&) {
    throw ConfigError(recipe.string() +
                      " is the record of a run that was made from another file; run that one, or "
                      "give the record a folder of its own: --set run_dir=...");
  }
}

std::string advice(int code, const fs::path& logs) {
  if (code == kDaemonLost)
    return "see to the hosts and the network between them, then run the same command to go on "
           "from the last checkpoint";
  switch (static_cast<ExitCode>(code)) {
    case ExitCode::requeue:
    case ExitCode::killed:
    case ExitCode::suspect:
      return "run the same command to go on from the last checkpoint";
    case ExitCode::internal:
      return "this is a bug of ours; please report it with the files in " + logs.string();
    case ExitCode::numeric:
      return "change the recipe as said above";
    case ExitCode::usage:
    case ExitCode::data:
    case ExitCode::checkpoint:
    case ExitCode::environment:
      return "mend what is said above, then run the same command: what is done stays done";
    default:
      break;
  }
  return "its processes were killed, for want of memory perhaps (see `dmesg`); run the same "
         "command "
         "to go on from the last checkpoint, with fewer --ranks if it happens again";
}

Crew crew_for(const SupervisorOptions& options, const StageConfig& stage,
              const slurm::StopAsked& stop_asked) {
  const bool alone = !uses_all_ranks(stage);
  if (options.allocation && !alone) return options.allocation->next(stop_asked);
  if (options.hosts && !alone) return options.hosts->next(options.ranks);
  Crew crew;
  crew.ranks = crew.ranks_per_node = alone ? 1 : options.ranks;
  return crew;
}

std::vector<std::string> stage_command(const SupervisorOptions& options, const std::string& program,
                                       const StageConfig& stage, const Crew& crew) {
  std::vector<std::string> command;
  const bool elsewhere = crew.ranks > 1 || !crew.nodes.empty() || !crew.hosts.empty();
  if (elsewhere && uses_all_ranks(stage)) command = options.launcher.words(crew);
  command.insert(command.end(), {program, "train", options.run_dir, "--record", options.record,
                                 "--stage", stage.name});
  static const std::map<ProgressStyle, std::string> styles = {{ProgressStyle::terminal, "terminal"},
                                                              {ProgressStyle::lines, "lines"},
                                                              {ProgressStyle::none, "none"}};
  command.insert(command.end(), {"--progress", styles.at(options.progress)});
  return command;
}

std::map<std::string, std::string> stage_environment(int ranks_here, int threads, bool root) {
  const auto cores = static_cast<int>(std::thread::hardware_concurrency());
  const int share = threads > 0 ? threads : std::max(1, cores / ranks_here);
  // The program pins its own threads, each rank to its share of the cores.
  std::map<std::string, std::string> environment{{"OMP_NUM_THREADS", std::to_string(share)},
                                                 {"OMP_DYNAMIC", "false"}};
  // For mpirun, as core/mpi.cpp does for its ranks.
  if (std::getenv("HWLOC_COMPONENTS") == nullptr) environment.emplace("HWLOC_COMPONENTS", "-x86");
  if (root) {  // the user runs us as root already; mpirun would refuse
    environment.emplace("OMPI_ALLOW_RUN_AS_ROOT", "1");
    environment.emplace("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
  }
  return environment;
}

int supervise(const RunConfig& run, const SupervisorOptions& options) {
  outlive_readers();
  SignalRelay relay(run.run_dir);
  for (const StageConfig& stage : run.stages) {
    if (!options.only.empty() && stage.name != options.only) continue;
    const StageStatus status = make_ready(run, stage, options.redo);
    if (status == StageStatus::done) {
      log::info("stage " + stage.name + " is done already");
      if (const auto input = newer_input(run, stage))
        log::warning("stage " + stage.name + " was done before " + input->string() +
                     " was written; remove " + stage.folder.string() + " to do it again");
      continue;
    }
    // A stage that ends by itself just then hears no request to stop.
    if (relay.interrupted()) {
      log::info("stopped before stage " + stage.name + "; run the same command to go on");
      return static_cast<int>(ExitCode::requeue);
    }
    log::info("stage " + stage.name + (status == StageStatus::started ? " (goes on)" : ""));
    const int code = run_attempts(run, options, stage, relay);
    if (code != 0) {
      log::warning("stage " + stage.name + " ended with code " + std::to_string(code) + ": " +
                   advice(code, run.run_dir / "logs"));
      return code;
    }
  }
  if (std::all_of(run.stages.begin(), run.stages.end(),
                  [](const StageConfig& stage) { return read_done(stage).has_value(); }))
    report(run);
  return 0;
}

}  // namespace demist
