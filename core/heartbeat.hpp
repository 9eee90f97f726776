// What a rank is doing, in memory that others on its machine can read while the rank is stuck.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "core/connections.hpp"

namespace demist {

// What a rank of a stage works at. `start`: all before the first step; `control`: messages and
// reports between rank 0 and the others.
enum class Phase : std::uint8_t {
  start,
  control,
  load,
  forward,
  backward,
  reduce,
  optimizer,
  save,
  evaluate,
};
inline constexpr std::size_t kPhases = 9;
const char* name_of(Phase phase);

// A heartbeat as its readers see it. Seconds are those of the machine's steady clock.
struct Pulse {
  std::string host;        // of the rank's process, by the name that the rank gave it
  bool elsewhere = false;  // told by a letter from another machine
  int rank = 0;
  int process = 0;
  bool alive = true;   // the process exists
  bool ended = false;  // the rank has left its stage by itself, well or with an error
  // False: the process stands in the middle of a change of what follows, so old and new are mixed.
  bool whole = false;
  Phase phase = Phase::start;
  std::int64_t step = -1;   // begun last; -1: none yet
  std::string call;         // what it waits in: a collective, the device; empty: nothing
  std::uint64_t beats = 0;  // changes of the above: stands still when the rank's work does
  std::uint64_t ticks = 0;  // of the rank's watchdog: stands still when the whole process does
  double last_tick = 0;     // when that was last, seconds; 0: not yet, or not told
  double slowest_step = 0;  // of the last kRecent, seconds; 0: none yet
  std::array<double, kPhases> slowest{};  // of the last kRecent of each phase; 0: none yet
};
inline constexpr std::size_t kRecent = 32;

// What /proc tells of a process.
struct ProcessState {
  char letter = 'X';        // R, S, D, T, Z (waits to be reaped) ...; X: there is no such process
  std::uint64_t began = 0;  // clock ticks from the machine's start; 0: unknown
};
ProcessState state_of(int process);

struct HeartbeatPage;  // the shared memory

// The writer's end, in the rank itself. One thread works and beats; tick() may come from another.
class Heartbeat {
 public:
  // Makes the file, in place of one that a killed process has left. `host`: at most 63 bytes are
  // kept. Throws EnvironmentError.
  Heartbeat(const std::filesystem::path& file, int rank, std::string_view host = {});
  ~Heartbeat();  // says that the rank has ended, and removes the file
  Heartbeat(const Heartbeat&) = delete;
  Heartbeat& operator=(const Heartbeat&) = delete;

  void enter(Phase phase);
  void begin_step(std::int64_t step);  // in phase `load`
  void end_step();                     // in phase `control`
  void begin_call(const char* name);   // static text; calls do not nest: the outer one stands
  void end_call();
  void tick();
  void leave();  // the rank ends now: nobody need look for a reason
  int rank() const;

  // For the rank's watchdog.
  Connections& connections() { return connections_; }
  // The watchdog is about to abort them and to end the process: the thread that works does not come
  // back from its next beat, so that nothing is made of what an aborted collective left in memory.
  void condemn() { condemned_.store(true); }

 private:
  class Recent {  // the largest of the last kRecent durations
   public:
    double add(double seconds);  // returns it

   private:
    std::array<double, kRecent> last_{};
    std::size_t next_ = 0;
  };
  void publish();

  Connections connections_;
  std::atomic<bool> condemned_ = false;
  std::filesystem::path file_;
  HeartbeatPage* page_;
  Phase phase_ = Phase::start;
  std::int64_t step_ = -1;
  const char* call_ = nullptr;
  int depth_ = 0;  // of calls
  double phase_began_, step_began_ = 0, slowest_step_ = 0;
  Recent steps_;
  std::array<Recent, kPhases> phases_;
  std::array<double, kPhases> slowest_{};
};

// A reader's end, in any process of the same machine.
class HeartbeatReader {
 public:
  // Throws EnvironmentError when there is no whole file.
  explicit HeartbeatReader(const std::filesystem::path& file);
  Pulse read() const;
  // True for the first who asks, over all processes: the one who may report what became of the
  // rank.
  bool claim() const;

 private:
  std::shared_ptr<HeartbeatPage> page_;
  bool gone_ = false;  // its process ended before, and another one may have its id
};

}  // namespace demist
