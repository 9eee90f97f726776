// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/attempts.hpp"

#include <unistd.h>

#include <chrono>
#include <csignal>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/log.hpp"
#include "orchestrator/attempt_watch.hpp"
#include "orchestrator/events.hpp"
#include "orchestrator/exit_record.hpp"
#include "orchestrator/process.hpp"
#include "orchestrator/progress.hpp"
#include "orchestrator/restart_policy.hpp"

namespace demist {
namespace {

constexpr int kDiedOfSignal = 128;  // plus the signal's number

// Not each: launchers have codes of their own above 128.
bool is_signal(int code) { return code > kDiedOfSignal && code < kDiedOfSignal + NSIG; }

// What the relay sends, and Slurm.
bool is_request_to_stop(int code) {
  const int signal = code - kDiedOfSignal;
  return signal == SIGUSR1 || signal == SIGUSR2 || signal == SIGTERM || signal == SIGINT;
}

class StageAttempts {
 public:
  StageAttempts(const RunConfig& run, const SupervisorOptions& options, const StageConfig& stage,
                SignalRelay& relay)
      : run_(run),
        options_(options),
        stage_(stage),
        relay_(relay),
        policy_(run.recovery, options.ranks, run.tensor_parallel,
                last_step(run.run_dir, stage.name), newest_checkpoint(stage.folder)) {}

  int run() {
    while (true) {
      const int code = reason_of(attempt());
      sweep_heartbeats(run_.run_dir);
      if (!goes_on_after(code)) return code;
    }
  }

 private:
  // The exit code of the processes.
  int attempt() {
    ++number_;
    cause_.reset();
    killed_.clear();
    clear_exit_records(run_.run_dir, stage_.name);
    const WatchedStage watched{
        run_.run_dir, stage_.name,
        host_name() + "-" + std::to_string(::getpid()) + "-" + std::to_string(number_)};
    options_.ranks = policy_.ranks();
    const Crew crew = crew_for(options_, stage_, [this] { return relay_.stop_asked(); });
    options_.ranks = crew.ranks;
    append_event(run_.run_dir, "attempt",
                 {{"stage", stage_.name}, {"attempt", number_}, {"ranks", options_.ranks}});
    const std::string program = own_program().string();
    ProcessSpec spec{stage_command(options_, program, stage_, crew),
                     stage_environment(crew.ranks_per_node, run_.threads, ::geteuid() == 0)};
    spec.environment[kAttemptVariable] = watched.attempt;
    Patience patience;
    patience.factor = run_.recovery.hang_factor;
    AttemptWatch watch(watched, patience);
    int process = 0;
    const int code = run_process(spec, [&](int pid) {
      process = pid;
      relay_(pid);
      if (!relay_.ended()) watch.look(pid);
    });
    relay_.look_for_file();
    // When the ranks were told to go at once, what they left says nothing about why.
    if (code != 0 && !relay_.ended()) cause_ = first_cause(run_.run_dir, stage_.name);
    const bool is_rank = spec.command.front() == program;
    if (!crew.nodes.empty()) options_.allocation->ended(code, suspected_node(cause_));
    if (options_.hosts && !is_rank && !relay_.interrupted())
      options_.hosts->ended(code, suspected_node(cause_), cause_.has_value());
    if (is_signal(code) && !relay_.ended() && !died_of_request(code) && !cause_)
      killed_ = is_rank ? record_killed(watched, watch.last_pulse(process), code - kDiedOfSignal)
                        : "a rank, or what started it, " + describe_signal(code - kDiedOfSignal);
    if (code == kDaemonLost && !is_rank && !options_.launcher.is_srun() && !cause_)
      killed_ =
          "mpirun lost a daemon of its own (code 255): a host is gone, or the network to it, or it "
          "could not be reached";
    return code;
  }

  // A stage that does not listen yet, or never does; it starts again as it was.
  bool died_of_request(int code) const { return relay_.interrupted() && is_request_to_stop(code); }

  // What the exit code of the processes stands for.
  int reason_of(int code) {
    if (code == 0) return 0;
    // The launcher's own code says nothing about why its ranks were killed.
    if (relay_.ended()) return static_cast<int>(ExitCode::killed);
    if (died_of_request(code)) return static_cast<int>(ExitCode::requeue);
    if (cause_) return static_cast<int>(cause_->code);
    const bool of_mpirun =
        (options_.ranks > 1 || options_.hosts) && code == static_cast<int>(ExitCode::internal);
    return of_mpirun ? static_cast<int>(ExitCode::suspect) : code;
  }

  // Decides, says so, and waits.
  bool goes_on_after(int code) {
    const std::int64_t step = last_step(run_.run_dir, stage_.name);
    // Ranks leave their reasons once the run folder is theirs. At first another run may work there;
    // later it can only be ranks of ours that are slow to die.
    const bool never_opened =
        code == static_cast<int>(ExitCode::environment) && !cause_ && number_ == 1;
    RestartPolicy::Decision next;
    if (code == static_cast<int>(ExitCode::requeue))  // saved, because somebody asked its ranks
      // In an allocation that was Slurm: the nodes are to be taken away.
      next = {options_.allocation == nullptr, 0, options_.ranks};
    else if (may_be_restarted(code) && !never_opened)
      next = policy_.after_failure(step, newest_checkpoint(stage_.folder));
    next.again = next.again && !relay_.interrupted();
    write_event(code, step, next.again);
    if (code == 0) return false;
    if (code != static_cast<int>(ExitCode::requeue)) say(code, next);
    if (relay_.interrupted()) return false;
    const double until = steady_seconds() + next.delay_seconds;
    while (steady_seconds() < until && !relay_.stop_asked())
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    return next.again && !relay_.interrupted();
  }

  void write_event(int code, std::int64_t step, bool again) const {
    nlohmann::ordered_json fields{{"stage", stage_.name},
                                  {"attempt", number_},
                                  {"code", code},
                                  {"step", step},
                                  {"again", again}};
    if (cause_) {
      fields["rank"] = cause_->rank;
      fields["host"] = cause_->host;
      fields["cause"] = cause_->message;
    } else if (!killed_.empty()) {
      fields["cause"] = killed_;
    }
    append_event(run_.run_dir, "attempt_ended", fields);
  }

  void say(int code, const RestartPolicy::Decision& next) const {
    std::string text = "stage " + stage_.name + ", attempt " + std::to_string(number_) + ": ";
    if (cause_)
      text += cause_->message;
    else if (!killed_.empty())
      text += killed_;
    else
      text += "its processes ended with code " + std::to_string(code);
    if (next.again) text += "; going on from the last checkpoint";
    if (next.delay_seconds > 0) text += " in " + format_duration(next.delay_seconds);
    if (next.again && next.ranks < options_.ranks && !options_.allocation)
      text += " with " + std::to_string(next.ranks) + " ranks";
    log::warning(text);
  }

  const RunConfig& run_;
  SupervisorOptions options_;
  const StageConfig& stage_;
  SignalRelay& relay_;
  RestartPolicy policy_;
  int number_ = 0;
  std::optional<ExitRecord> cause_;
  std::string killed_;  // without a cause: how its processes ended, if that can be told; else empty
};

}  // namespace

int run_attempts(const RunConfig& run, const SupervisorOptions& options, const StageConfig& stage,
                 SignalRelay& relay) {
  return StageAttempts(run, options, stage, relay).run();
}

}  // namespace demist
