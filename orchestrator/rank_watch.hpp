// Who watches the ranks of a stage: a thread in each rank, and `demist run`.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/mpi.hpp"
#include "orchestrator/hang.hpp"
#include "orchestrator/machine_link.hpp"

namespace demist {

namespace fs = std::filesystem;

// Tells the ranks of one attempt from those of another: `demist run` sets it for the ranks it
// starts.
inline constexpr const char* kAttemptVariable = "DEMIST_ATTEMPT_ID";

// Where the ranks of a run keep their heartbeats on this machine: in memory, below /dev/shm or
// another folder that this variable names, or in the run folder where there is no such place. The
// folder is made.
inline constexpr const char* kHeartbeatVariable = "DEMIST_HEARTBEATS";
fs::path heartbeat_folder(const fs::path& run_dir);

// Removes what killed ranks have left there, and the folder when nobody uses it.
void sweep_heartbeats(const fs::path& run_dir);

// An attempt at a stage.
struct WatchedStage {
  fs::path run_dir;
  std::string stage;
  std::string attempt;  // its identity
};

// Sees ranks come and go, and what becomes of them: those of this machine, and those of which
// `others` tell. One thread at a time.
class RankObserver {
 public:
  using Others = std::map<int, OtherMachine>;
  RankObserver(WatchedStage stage, const Patience& patience);
  std::optional<Finding> look(const Others& others = {});
  // True for one process of this machine: the one that reports it.
  bool claim(const Finding& finding) const;
  bool is_alone(const Finding& finding) const;  // REQUIRES: elsewhere. No other rank on its machine
  std::vector<Pulse> pulses() const;            // of this machine, as of the last look
  const std::map<std::string, HeartbeatReader>& ranks() const { return readers_; }

 private:
  void find_new();
  std::size_t index_of(const std::string& name);

  WatchedStage stage_;
  fs::path folder_;
  HangDetector detector_;
  std::map<std::string, HeartbeatReader> readers_;  // of this machine
  std::map<std::string, std::size_t> known_;        // how the detector counts ranks
  std::vector<Pulse> pulses_;                       // so counted
};

// Writes the event (`hang` or `rank_died`) and the rank's exit record, unless a reason is known
// already. Returns the message for people.
std::string record_finding(const WatchedStage& stage, const Finding& finding);

// The same for the only rank of a stage, a child of ours that was killed by a signal: no record,
// for the exit code says it.
std::string record_killed(const WatchedStage& stage, const Pulse& pulse, int signal);

// The same for a connection of this rank through which nothing will come any more (event
// `connection_lost`). Some other rank is the cause, so its record goes before.
std::string record_trouble(const WatchedStage& stage, const Pulse& pulse,
                           const std::string& trouble);

// A rank's own heartbeat, and the thread that watches over all ranks of its machine and over this
// rank's connections; the one of rank 0 hears of all other machines as well, and that of the second
// machine's first rank of rank 0's. When a rank is dead or hung, or a connection is lost, and
// `demist run` is not there to say so, it says so, aborts the connections, on which the rank's own
// thread or device may be stuck, and ends this process with ExitCode::suspect, which ends the job.
class RankWatch {
 public:
  enum class StopRequest { is_heard_elsewhere, ends_process };  // a file in the run folder
  // Collective. `patience`: of the run. With ends_process this process ends with
  // ExitCode::requeue when the file comes: for stages that are not asked between two steps.
  RankWatch(const mpi::Comm& world, const fs::path& run_dir, const std::string& stage,
            const Patience& patience, StopRequest request = StopRequest::is_heard_elsewhere);
  ~RankWatch();
  RankWatch(const RankWatch&) = delete;
  RankWatch& operator=(const RankWatch&) = delete;
  const mpi::Comm& world() const { return world_; }  // shows its collectives in the heartbeat

 private:
  // Since when something has been found, in seconds of the steady clock; 0: it has not.
  struct Since {
    double finding = 0, trouble = 0;
  };
  // Collective.
  std::unique_ptr<MachineLink> meet_other_machines(const mpi::Comm& world) const;
  void watch(const std::stop_token& stop, const Patience& patience, StopRequest request);
  std::optional<Finding> look(RankObserver& observer) const;
  void act_on(const RankObserver& observer, const std::optional<Finding>& finding, Since& since);
  void act_on(const std::string& trouble, Since& since);
  Pulse own_pulse() const;
  [[noreturn]] void end_process(ExitCode code = ExitCode::suspect);

  WatchedStage stage_;
  std::unique_ptr<Heartbeat> heartbeat_;
  mpi::Comm world_;
  std::unique_ptr<MachineLink> link_;                // null: nobody elsewhere to hear of
  std::atomic<MachineLink*> shared_link_ = nullptr;  // the same, once the thread may use it
  std::jthread thread_;                              // last: it uses what stands above
};

}  // namespace demist
