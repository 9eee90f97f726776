// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/rank_watch.hpp"

#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <mutex>
#include <nlohmann/json.hpp>

#include "core/checksum.hpp"
#include "core/file.hpp"
#include "orchestrator/events.hpp"
#include "orchestrator/exit_record.hpp"
#include "orchestrator/progress.hpp"
#include "orchestrator/stage_state.hpp"

namespace demist {
namespace {

using nlohmann::ordered_json;

constexpr auto kPeriod = std::chrono::milliseconds(100);
constexpr double kPrecedence = 0.5;  // seconds

// What rank 0 says: an environment variable does not reach other machines.
std::string agree_on_attempt(const mpi::Comm& world) {
  std::string identity;
  if (world.rank() == 0) {
    const char* given = std::getenv(kAttemptVariable);
    identity = given != nullptr ? given : host_name() + "-" + std::to_string(::getpid());
  }
  return world.broadcast(identity, 0);
}

std::string file_name(const WatchedStage& stage, int rank) {
  return sha256_hex(stage.stage + "\n" + stage.attempt).substr(0, 16) + "." + std::to_string(rank);
}

std::string prefix(const WatchedStage& stage) {
  const std::string first = file_name(stage, 0);
  return first.substr(0, first.size() - 1);
}

// Not through the log: its lock may be held by the thread that hangs.
void say(const std::string& message) {
  const std::string line = "demist: " + message + "\n";
  (void)!::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace

fs::path heartbeat_folder(const fs::path& run_dir) {
  const std::string identity = sha256_hex(fs::absolute(run_dir).lexically_normal().string());
  const fs::path shared =
      "/dev/shm/demist-" + std::to_string(::getuid()) + "-" + identity.substr(0, 16);
  std::error_code error;
  fs::create_directories(shared, error);
  if (!error && ::access(shared.c_str(), W_OK) == 0) return shared;
  fs::create_directories(run_dir / "heartbeats");
  return run_dir / "heartbeats";
}

void sweep_heartbeats(const fs::path& run_dir) {
  const fs::path folder = heartbeat_folder(run_dir);
  std::error_code ignored;  // others sweep as well
  for (const auto& entry : fs::directory_iterator(folder, ignored))
    (void)mpi::attempt([&] {
      if (!HeartbeatReader(entry.path()).read().alive) fs::remove(entry.path());
    });
  fs::remove(folder, ignored);  // not while there are files
}

RankObserver::RankObserver(WatchedStage stage, const Patience& patience)
    : stage_(std::move(stage)), folder_(heartbeat_folder(stage_.run_dir)), detector_(patience) {}

void RankObserver::find_new() {
  std::error_code error;  // a folder that is gone has no ranks
  for (const auto& entry : fs::directory_iterator(folder_, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(prefix(stage_)) || readers_.contains(name)) continue;
    (void)mpi::attempt([&] {  // not whole yet, or gone already
      readers_.emplace(name, HeartbeatReader(entry.path()));
      order_.push_back(name);
    });
  }
}

std::optional<Finding> RankObserver::look() {
  find_new();
  std::vector<Pulse> pulses;
  for (const std::string& name : order_) pulses.push_back(readers_.at(name).read());
  return detector_.look(pulses, steady_seconds());
}

bool RankObserver::claim(const Finding& finding) const {
  return readers_.at(order_.at(finding.index)).claim();
}

std::string record_finding(const WatchedStage& stage, const Finding& finding) {
  const Pulse& pulse = finding.pulse;
  const std::string host = host_name(), message = describe(finding, host);
  const bool died = finding.kind == Finding::Kind::died;
  // A rank that ended with an error of its own makes the launcher kill the others.
  if (died && first_cause(stage.run_dir, stage.stage)) return message;
  ordered_json fields{{"stage", stage.stage},
                      {"rank", pulse.rank},
                      {"host", host},
                      {"process", pulse.process},
                      {"phase", name_of(pulse.phase)},
                      {"call", pulse.call},
                      {"step", pulse.step}};
  if (!died) {
    fields["seconds"] = finding.seconds;
    fields["limit"] = finding.limit;
    fields["whole_process"] = finding.kind == Finding::Kind::process_stands_still;
  }
  append_event(stage.run_dir, died ? "rank_died" : "hang", fields);
  write_exit_record(stage.run_dir, {unix_seconds(), stage.stage, pulse.rank, host,
                                    ExitCode::suspect, message, false});
  return message;
}

RankWatch::RankWatch(const mpi::Comm& world, const fs::path& run_dir, const std::string& stage,
                     const Patience& patience)
    : stage_{run_dir, stage, agree_on_attempt(world)} {
  mpi::together(world, "start heartbeat", [&] {
    heartbeat_ = std::make_unique<Heartbeat>(
        heartbeat_folder(run_dir) / file_name(stage_, world.rank()), world.rank());
    // It ticks while this rank waits for the others, who may be slow to come.
    thread_ =
        std::jthread([this, patience](const std::stop_token& stop) { watch(stop, patience); });
  });
  world_ = world.watched_by(*heartbeat_);
}

RankWatch::~RankWatch() {
  thread_.request_stop();
  thread_.join();
  heartbeat_->leave();
  sweep_heartbeats(stage_.run_dir);
}

void RankWatch::watch(const std::stop_token& stop, const Patience& patience) {
  RankObserver observer(stage_, patience);
  double found_at = 0;
  std::mutex mutex;
  std::condition_variable_any stopped;
  std::unique_lock lock(mutex);
  while (!stopped.wait_for(lock, stop, kPeriod, [&] { return stop.stop_requested(); })) {
    heartbeat_->tick();
    const std::optional<Finding> finding = observer.look();
    if (!finding) found_at = 0;
    if (!finding) continue;
    // `demist run` ends an attempt faster; and launchers end it themselves when a rank died.
    if (found_at == 0) found_at = steady_seconds();
    if (steady_seconds() < found_at + kPrecedence || !observer.claim(*finding)) continue;
    say(record_finding(stage_, *finding));
    heartbeat_->leave();
    // A stopped process does not hear a friendlier signal.
    if (finding->pulse.alive && finding->pulse.process != ::getpid())
      ::kill(finding->pulse.process, SIGKILL);
    std::_Exit(static_cast<int>(ExitCode::suspect));
  }
}

}  // namespace demist
