// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/supervisor.hpp"

#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <thread>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "orchestrator/process.hpp"
#include "orchestrator/run_plan.hpp"
#include "orchestrator/signals.hpp"
#include "orchestrator/stage_state.hpp"
#include "orchestrator/summary.hpp"

namespace demist {
namespace {

bool uses_all_ranks(const StageConfig& stage) {
  return !std::holds_alternative<PrepareStage>(stage.work) &&
         !std::holds_alternative<TokenizerStage>(stage.work);
}

// Passes a stop request on. The first: SIGUSR1 (SIGUSR2 if that was the request: a library may have
// taken the other), which mpirun and srun hand to their ranks; on SIGINT or SIGTERM they would kill
// them before they have saved. The second: SIGTERM, and SIGKILL for what is left.
class SignalRelay {
 public:
  explicit SignalRelay(const fs::path& run_dir) : stop_file_(run_dir / kStopFile) {}
  void operator()(int pid) {
    look_for_file();
    if (interrupted() && asked_at_ == 0) {
      asked_at_ = steady_seconds();
      log::info("saving and stopping; press Ctrl-C again to stop at once");
      ::kill(-pid, signals_.first() == SIGUSR2 ? SIGUSR2 : SIGUSR1);
    }
    if (signals_.count() >= 2 && ended_at_ == 0) {
      ended_at_ = steady_seconds();
      ::kill(-pid, SIGTERM);
    }
    if (ended_at_ > 0 && steady_seconds() > ended_at_ + kPatienceSeconds) ::kill(-pid, SIGKILL);
  }
  bool interrupted() const { return signals_.requested() || file_found_; }
  bool ended() const { return ended_at_ > 0; }

 private:
  void look_for_file() {
    if (file_found_ || steady_seconds() < next_look_) return;
    std::error_code unreadable;
    file_found_ = fs::exists(stop_file_, unreadable);
    next_look_ = steady_seconds() + 1;
  }
  static constexpr double kPatienceSeconds = 2;
  StopSignals signals_{StopSignals::Second::is_counted};
  double asked_at_ = 0, ended_at_ = 0;  // 0: not yet
  fs::path stop_file_;
  double next_look_ = 0;
  bool file_found_ = false;
};

Crew crew_for(const SupervisorOptions& options, const StageConfig& stage) {
  if (options.allocation && uses_all_ranks(stage)) return options.allocation->next();
  Crew crew;
  crew.ranks = options.ranks;
  return crew;
}

constexpr int kDiedOfSignal = 128;  // plus the signal's number

// Runs one stage until it is done; the exit code of its processes otherwise.
int run_to_end(const RunConfig& run, const SupervisorOptions& options, const StageConfig& stage,
               SignalRelay& relay) {
  const std::string program = fs::read_symlink("/proc/self/exe").string();
  constexpr auto requeue = static_cast<int>(ExitCode::requeue);
  int code = requeue;
  do {
    const Crew crew = crew_for(options, stage);
    const int ranks_here = options.allocation ? crew.ranks_per_node : options.ranks;
    code = run_process({stage_command(options, program, stage, crew),
                        stage_environment(ranks_here, run.threads, ::geteuid() == 0)},
                       std::ref(relay));
    if (options.allocation && uses_all_ranks(stage)) options.allocation->ended(code);
    // In an allocation nobody but Slurm can have asked the ranks: their nodes are to be taken away.
  } while (code == requeue && !relay.interrupted() && !options.allocation);
  // A stage that does not listen yet, or never does, dies of the request; it starts again as it
  // was.
  if (relay.interrupted() && code > kDiedOfSignal) code = requeue;
  // mpirun's own code says nothing about why its ranks were killed.
  return relay.ended() ? static_cast<int>(ExitCode::killed) : code;
}

void report(const RunConfig& run) {
  const RunSummary summary = summarize(run);
  atomic_write(run.run_dir / "summary.json", to_json(summary) + "\n");
  for (const StageConfig& stage : run.stages) {
    const auto* score = std::get_if<ScoreStage>(&stage.work);
    if (score == nullptr) continue;
    std::fputs(format_samples(stage.folder / "samples.jsonl", score->samples).c_str(), stdout);
  }
  std::printf("\n%s\n%s\n", format_table(summary).c_str(), (run.run_dir / "summary.json").c_str());
}

}  // namespace

void refuse_record(const RunConfig& run, const fs::path& recipe) {
  std::error_code absent;
  if (fs::equivalent(recipe, run.run_dir / "recipe.textproto", absent))
    throw ConfigError(recipe.string() +
                      " is the record of this run; run the recipe that it was made from, or give "
                      "the record a folder of its own: --set run_dir=...");
}

std::string advice(int code, const fs::path& logs) {
  switch (static_cast<ExitCode>(code)) {
    case ExitCode::requeue:
    case ExitCode::killed:
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

std::vector<std::string> stage_command(const SupervisorOptions& options, const std::string& program,
                                       const StageConfig& stage, const Crew& crew) {
  std::vector<std::string> command;
  const bool elsewhere = crew.ranks > 1 || !crew.nodes.empty();
  if (elsewhere && uses_all_ranks(stage)) command = options.launcher.words(crew);
  command.insert(command.end(), {program, "train", options.recipe, "--stage", stage.name});
  for (const std::string& assignment : options.overrides)
    command.insert(command.end(), {"--set", assignment});
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
  SignalRelay relay(run.run_dir);
  for (const StageConfig& stage : run.stages) {
    if (!options.only.empty() && stage.name != options.only) continue;
    const StageStatus status = make_ready(run, stage, options.redo);
    if (status == StageStatus::done) {
      log::info("stage " + stage.name + " is done already");
      continue;
    }
    log::info("stage " + stage.name + (status == StageStatus::started ? " (goes on)" : ""));
    const int code = run_to_end(run, options, stage, relay);
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
