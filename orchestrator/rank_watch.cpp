// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/rank_watch.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <future>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>

#include "core/checksum.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "orchestrator/events.hpp"
#include "orchestrator/exit_record.hpp"
#include "orchestrator/progress.hpp"
#include "orchestrator/stage_state.hpp"
#include "orchestrator/stop_file.hpp"

namespace demist {
namespace {

using nlohmann::ordered_json;

constexpr auto kPeriod = std::chrono::milliseconds(100);
// Seconds. `demist run` ends an attempt faster than a rank, and launchers end it themselves when a
// rank died; ranks that have nothing to report follow the one that does; and a lost connection is
// the consequence of what others may report. Nobody but rank 0 hears of a rank that was alone on
// its machine; mpirun gives it a second before it is killed for that rank's death.
constexpr double kPrecedence = 0.5, kPrecedenceOfReport = 1.5, kPrecedenceOfCause = 5,
                 kPrecedenceOfNobody = 0.2;
// To abort connections: a driver may not answer.
constexpr auto kAbortLimit = std::chrono::seconds(5);

// In the name of a rank elsewhere, behind the number of its machine. In no name of a file here.
constexpr char kRankSign = '#';

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

double precedence_over(const RankObserver& observer, const Finding& finding) {
  if (!finding.pulse.elsewhere) return kPrecedence;
  return observer.is_alone(finding) ? kPrecedenceOfNobody : kPrecedenceOfReport;
}

// The same for ranks that can read one another's heartbeats; containers of one host may be apart.
std::string machine_of(const fs::path& heartbeats) {
  struct ::stat folder {};
  ::stat(heartbeats.c_str(), &folder);
  return host_name() + ":" + std::to_string(folder.st_dev) + ":" + std::to_string(folder.st_ino);
}

// Not through the log: its lock may be held by the thread that hangs.
void say(const std::string& message) {
  const std::string line = "demist: " + message + "\n";
  (void)!::write(STDERR_FILENO, line.data(), line.size());
}

ordered_json fields_of(const WatchedStage& stage, const Pulse& pulse) {
  return {{"stage", stage.stage},
          {"rank", pulse.rank},
          {"host", pulse.host},
          {"process", pulse.process},
          {"phase", name_of(pulse.phase)},
          {"call", pulse.call},
          {"step", pulse.step}};
}

}  // namespace

fs::path heartbeat_folder(const fs::path& run_dir) {
  const std::string identity = sha256_hex(fs::absolute(run_dir).lexically_normal().string());
  const char* named = std::getenv(kHeartbeatVariable);
  const fs::path shared = fs::path(named != nullptr ? named : "/dev/shm") /
                          ("demist-" + std::to_string(::getuid()) + "-" + identity.substr(0, 16));
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
    });
  }
}

std::size_t RankObserver::index_of(const std::string& name) {
  const auto [place, is_new] = known_.emplace(name, known_.size());
  if (is_new) pulses_.emplace_back();
  return place->second;
}

std::optional<Finding> RankObserver::look(const Others& others) {
  find_new();
  for (const auto& [name, reader] : readers_) pulses_[index_of(name)] = reader.read();
  // Of a machine that has said good-bye nothing more is known, nor need be.
  for (Pulse& pulse : pulses_) pulse.ended = pulse.ended || pulse.elsewhere;
  for (const auto& [number, machine] : others)
    for (const Pulse& pulse : machine.pulses)
      pulses_[index_of(std::to_string(number) + kRankSign + std::to_string(pulse.rank))] = pulse;
  return detector_.look(pulses_, steady_seconds());
}

bool RankObserver::claim(const Finding& finding) const {
  if (finding.pulse.elsewhere) return true;  // only one hears of that machine
  for (const auto& [name, reader] : readers_)
    if (known_.at(name) == finding.index) return reader.claim();
  return false;
}

bool RankObserver::is_alone(const Finding& finding) const {
  const auto self =
      std::ranges::find(known_, finding.index, [](const auto& known) { return known.second; });
  const std::string machine = self->first.substr(0, self->first.find(kRankSign) + 1);
  return std::ranges::count_if(
             known_, [&](const auto& known) { return known.first.starts_with(machine); }) == 1;
}

std::vector<Pulse> RankObserver::pulses() const {
  std::vector<Pulse> own;
  std::ranges::copy_if(pulses_, std::back_inserter(own),
                       [](const Pulse& pulse) { return !pulse.elsewhere; });
  return own;
}

std::string record_finding(const WatchedStage& stage, const Finding& finding) {
  const Pulse& pulse = finding.pulse;
  const std::string message = describe(finding);
  const bool died = finding.kind == Finding::Kind::died;
  // A rank that ended with an error of its own makes the launcher kill the others.
  if (died && first_cause(stage.run_dir, stage.stage)) return message;
  ordered_json fields = fields_of(stage, pulse);
  if (!died) {
    fields["seconds"] = finding.seconds;
    fields["limit"] = finding.limit;
    fields["whole_process"] = finding.kind == Finding::Kind::process_stands_still;
  }
  append_event(stage.run_dir, died ? "rank_died" : "hang", fields);
  write_exit_record(stage.run_dir, {unix_seconds(), stage.stage, pulse.rank, pulse.host,
                                    ExitCode::suspect, message, false});
  return message;
}

std::string record_killed(const WatchedStage& stage, const Pulse& pulse, int signal) {
  append_event(stage.run_dir, "rank_died", fields_of(stage, pulse));
  return name_of(pulse) + " " + describe_signal(signal, where(pulse));
}

std::string record_trouble(const WatchedStage& stage, const Pulse& pulse,
                           const std::string& trouble) {
  const std::string message =
      name_of(pulse) + " lost its connections in " + where(pulse) + ": " + trouble;
  ordered_json fields = fields_of(stage, pulse);
  fields["problem"] = trouble;
  append_event(stage.run_dir, "connection_lost", fields);
  write_exit_record(stage.run_dir, {unix_seconds(), stage.stage, pulse.rank, pulse.host,
                                    ExitCode::suspect, message, true});
  return message;
}

RankWatch::RankWatch(const mpi::Comm& world, const fs::path& run_dir, const std::string& stage,
                     const Patience& patience, StopRequest request)
    : stage_{run_dir, stage, agree_on_attempt(world)} {
  mpi::together(world, "start heartbeat", [&] {
    heartbeat_ = std::make_unique<Heartbeat>(
        heartbeat_folder(run_dir) / file_name(stage_, world.rank()), world.rank(), node_name());
    // It ticks while this rank waits for the others, who may be slow to come.
    thread_ =
        std::jthread([=, this](const std::stop_token& stop) { watch(stop, patience, request); });
  });
  link_ = meet_other_machines(world);
  shared_link_ = link_.get();
  world_ = world.watched_by(*heartbeat_);
}

RankWatch::~RankWatch() {
  thread_.request_stop();
  thread_.join();
  if (link_) link_->leave();
  heartbeat_->leave();
  sweep_heartbeats(stage_.run_dir);
}

// The first rank of a machine speaks for it.
std::unique_ptr<MachineLink> RankWatch::meet_other_machines(const mpi::Comm& world) const {
  const std::string host = node_name();
  const std::string mine = machine_of(heartbeat_folder(stage_.run_dir));
  const std::vector<std::string> machines = world.gather(mine, 0);  // of all ranks, on rank 0
  std::vector<int> speakers;
  std::set<std::string> seen;
  for (std::size_t rank = 0; rank < machines.size(); ++rank)
    if (seen.insert(machines[rank]).second) speakers.push_back(static_cast<int>(rank));
  std::unique_ptr<MachineLink> link;
  ordered_json call;
  if (speakers.size() > 1) {
    const mpi::Outcome heard = mpi::attempt([&] {
      auto listening = listen_to_machines(host);
      const MeetingPoint& point = listening->meeting_point();
      call = {{"token", point.token},
              {"addresses", point.addresses},
              {"port", point.port},
              {"speakers", speakers}};
      link = std::move(listening);
    });
    if (!heard.message.empty())
      log::warning(heard.message + "; each machine watches its own ranks alone");
  }
  call = ordered_json::parse(world.broadcast(call.dump(), 0));
  if (world.rank() == 0 || call.is_null()) return link;
  speakers = call.at("speakers").get<std::vector<int>>();
  const auto place = std::ranges::find(speakers, world.rank());
  if (place == speakers.end()) return nullptr;
  return call_first_machine({call.at("token"), call.at("addresses"), call.at("port")},
                            static_cast<int>(place - speakers.begin()), host);
}

std::optional<Finding> RankWatch::look(RankObserver& observer) const {
  MachineLink* const link = shared_link_.load();
  if (link == nullptr) return observer.look();
  link->exchange(observer.pulses());
  return observer.look(link->others());
}

void RankWatch::watch(const std::stop_token& stop, const Patience& patience, StopRequest request) {
  RankObserver observer(stage_, patience);
  StopFile stop_file(stage_.run_dir);
  Since since;
  std::mutex mutex;
  std::condition_variable_any stopped;
  std::unique_lock lock(mutex);
  while (!stopped.wait_for(lock, stop, kPeriod, [&] { return stop.stop_requested(); })) {
    heartbeat_->tick();
    act_on(observer, look(observer), since);
    act_on(heartbeat_->connections().trouble(), since);
    if (request == StopRequest::ends_process && stop_file.look_now_and_then()) {
      if (heartbeat_->rank() == 0)
        say("stage " + stage_.stage + " stops as it was asked to; run the same command to go on");
      heartbeat_->leave();
      end_process(ExitCode::requeue);
    }
  }
}

void RankWatch::act_on(const RankObserver& observer, const std::optional<Finding>& finding,
                       Since& since) {
  if (!finding) since.finding = 0;
  if (!finding) return;
  if (since.finding == 0) since.finding = steady_seconds();
  const double passed = steady_seconds() - since.finding;
  if (passed < precedence_over(observer, *finding)) return;
  const bool first = observer.claim(*finding);
  if (!first && passed < kPrecedenceOfReport) return;
  if (first) say(record_finding(stage_, *finding));
  // A stopped process does not hear a friendlier signal; elsewhere the launcher sends it.
  const bool here = !finding->pulse.elsewhere;
  const bool mine = here && finding->pulse.process == ::getpid();
  if (first && here && finding->pulse.alive && !mine) ::kill(finding->pulse.process, SIGKILL);
  // Nobody need look for a reason why the others end. That this rank is gone, others must see.
  if (!mine) heartbeat_->leave();
  end_process();
}

void RankWatch::act_on(const std::string& trouble, Since& since) {
  if (trouble.empty()) return;
  if (since.trouble == 0) since.trouble = steady_seconds();
  if (steady_seconds() < since.trouble + kPrecedenceOfCause) return;
  say(record_trouble(stage_, own_pulse(), trouble));
  heartbeat_->leave();
  end_process();
}

Pulse RankWatch::own_pulse() const {
  return HeartbeatReader(heartbeat_folder(stage_.run_dir) / file_name(stage_, world_.rank()))
      .read();
}

void RankWatch::end_process(ExitCode code) {
  // Without a supervisor nobody comes after the last rank. Pages of the dead stay: others may not
  // have looked at them yet.
  std::error_code ignored;
  fs::remove(heartbeat_folder(stage_.run_dir), ignored);  // not while there are files
  heartbeat_->condemn();
  std::promise<void> aborted;
  std::thread([&] {
    heartbeat_->connections().abort();
    aborted.set_value();
  }).detach();
  aborted.get_future().wait_for(kAbortLimit);
  std::_Exit(static_cast<int>(code));
}

}  // namespace demist
