// When a rank counts as dead or hung: pure decisions from heartbeats.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/heartbeat.hpp"

namespace demist {

// How long a rank may stand still, in seconds; the longest of what applies.
struct Patience {
  double factor = 2;            // times the slowest recent step; 0: nothing is a hang
  double phase_factor = 4;      // times the slowest recent save, evaluation or start, inside one
  double process = 2;           // at least, when the whole process stands still
  double elsewhere = 5;         // the same on another machine: letters are lost and sent again
  double work = 60;             // at least, when its watchdog lives: disks and networks pause
  double silent = 120;          // before it has a heartbeat
  double forsaken = 30;         // a launcher, after its last rank
  double unknown_process = 30;  // before there is a step to compare with
  double unknown_work = 1800;   // before there is a step, or a save and so on
};

inline constexpr double kLongestLook = 0.5;  // seconds between two looks that count

struct Finding {
  enum class Kind { died, process_stands_still, work_stands_still };
  Kind kind = Kind::died;
  std::size_t index = 0;  // of the rank's pulse
  Pulse pulse;
  double seconds = 0, limit = 0;  // it stood still; it might have
};
// "rank 2 (process 4711 on node7) stands still: backward of step 41, in all_reduce, for 2.1 s where
// 2.0 s are the limit"
std::string describe(const Finding& finding);
// "rank 2 (process 4711 on node7)"
std::string name_of(const Pulse& pulse);
// "was killed by signal 9 (Killed) in forward of step 41, for want of memory perhaps"; where "":
// not known.
std::string describe_signal(int signal, const std::string& where = "");
// "backward of step 41, in all_reduce"
std::string where(const Pulse& pulse);

// Looks at the same ranks again and again; ranks may be added at the end. What passes while nobody
// looks does not count: a paused machine is not a hang.
class HangDetector {
 public:
  explicit HangDetector(const Patience& patience) : patience_(patience) {}
  // The one to blame when a rank died or is over its limit. `now`: seconds of any steady clock.
  std::optional<Finding> look(std::span<const Pulse> pulses, double now);

 private:
  struct Stillness {
    std::uint64_t beats = 0, ticks = 0;
    double work = 0, process = 0;  // seconds without a beat, without a tick
  };
  void observe(std::span<const Pulse> pulses, double now);
  double limit_of_process(const Pulse& pulse) const;
  double limit_of_work(const Pulse& pulse) const;
  std::optional<Finding> find_stuck(std::span<const Pulse> pulses) const;

  Patience patience_;
  std::vector<Stillness> ranks_;
  double last_look_ = 0;
};

}  // namespace demist
