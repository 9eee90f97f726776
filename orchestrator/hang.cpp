// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/hang.hpp"

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstring>

namespace demist {
namespace {

bool watched(const Pulse& pulse) { return pulse.alive && !pulse.ended; }

// A launcher ends the others for the first that died, and who looks late finds them all dead. The
// first is the one whose watchdog fell silent before the others', where ticks can tell.
std::optional<std::size_t> first_to_die(std::span<const Pulse> pulses) {
  constexpr double apart = 0.25;  // seconds: there are ten ticks in one
  std::optional<std::size_t> first;
  for (std::size_t i = 0; i < pulses.size(); ++i) {
    if (pulses[i].alive || pulses[i].ended) continue;
    const double tick = pulses[i].last_tick;
    if (!first || (tick > 0 && tick + apart < pulses[*first].last_tick)) first = i;
  }
  return first;
}

std::string seconds_text(double seconds) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.1f s", seconds);
  return text.data();
}

}  // namespace

std::string where(const Pulse& pulse) {
  std::string text = name_of(pulse.phase);
  if (pulse.step >= 0) text += " of step " + std::to_string(pulse.step);
  if (!pulse.call.empty()) text += ", in " + pulse.call;
  return text;
}

std::string name_of(const Pulse& pulse) {
  return "rank " + std::to_string(pulse.rank) + " (process " + std::to_string(pulse.process) +
         " on " + pulse.host + ")";
}

std::string describe_signal(int signal, const std::string& where) {
  std::string text =
      "was killed by signal " + std::to_string(signal) + " (" + ::strsignal(signal) + ")";
  if (!where.empty()) text += " in " + where;
  return signal == SIGKILL ? text + ", for want of memory perhaps" : text;
}

std::string describe(const Finding& finding) {
  const Pulse& pulse = finding.pulse;
  const bool died = finding.kind == Finding::Kind::died;
  std::string text = name_of(pulse) + " ";
  text += died ? "died in " : "stands still: ";
  text += where(pulse);
  if (died) return text + "; it was killed, for want of memory perhaps, or crashed";
  return text + ", for " + seconds_text(finding.seconds) + " where " + seconds_text(finding.limit) +
         " are the limit";
}

void HangDetector::observe(std::span<const Pulse> pulses, double now) {
  const double passed = last_look_ > 0 ? std::min(now - last_look_, kLongestLook) : 0;
  last_look_ = now;
  ranks_.resize(pulses.size());
  for (std::size_t i = 0; i < pulses.size(); ++i) {
    Stillness& rank = ranks_[i];
    rank.work = pulses[i].beats == rank.beats ? rank.work + passed : 0;
    rank.process = pulses[i].ticks == rank.ticks ? rank.process + passed : 0;
    rank.beats = pulses[i].beats;
    rank.ticks = pulses[i].ticks;
  }
}

std::optional<Finding> HangDetector::look(std::span<const Pulse> pulses, double now) {
  observe(pulses, now);
  if (const auto dead = first_to_die(pulses))
    return Finding{Finding::Kind::died, *dead, pulses[*dead]};
  if (patience_.factor <= 0) return std::nullopt;
  for (std::size_t i = 0; i < pulses.size(); ++i) {
    const double limit = limit_of_process(pulses[i]);
    if (watched(pulses[i]) && ranks_[i].process > limit)
      return Finding{Finding::Kind::process_stands_still, i, pulses[i], ranks_[i].process, limit};
  }
  return find_stuck(pulses);
}

double HangDetector::limit_of_process(const Pulse& pulse) const {
  if (pulse.slowest_step <= 0) return patience_.unknown_process;
  const double least = pulse.elsewhere ? patience_.elsewhere : patience_.process;
  return std::max(least, patience_.factor * pulse.slowest_step);
}

double HangDetector::limit_of_work(const Pulse& pulse) const {
  if (pulse.slowest_step <= 0) return patience_.unknown_work;
  const double of_step = std::max(patience_.work, patience_.factor * pulse.slowest_step);
  if (pulse.phase != Phase::save && pulse.phase != Phase::evaluate && pulse.phase != Phase::start)
    return of_step;
  const double of_phase = pulse.slowest[static_cast<std::size_t>(pulse.phase)];
  if (of_phase <= 0) return patience_.unknown_work;
  return std::max(of_step, patience_.phase_factor * of_phase);
}

// Ranks wait for one another in collectives, so a stuck one makes all of them late. To blame is the
// one that waits for nobody; if all of them wait, the cause is on another machine, whose own
// watchers get half as much time again to name it.
std::optional<Finding> HangDetector::find_stuck(std::span<const Pulse> pulses) const {
  std::optional<std::size_t> worst;
  bool over = false;
  for (std::size_t i = 0; i < pulses.size(); ++i) {
    if (!watched(pulses[i])) continue;
    const double waiting = pulses[i].call.empty() ? 1.0 : 1.5;
    over = over || ranks_[i].work > waiting * limit_of_work(pulses[i]);
    const auto blame = [&](std::size_t k) {
      return std::pair(pulses[k].call.empty() && ranks_[k].work > 0, ranks_[k].work);
    };
    if (!worst || blame(i) > blame(*worst)) worst = i;
  }
  if (!over) return std::nullopt;
  return Finding{Finding::Kind::work_stands_still, *worst, pulses[*worst], ranks_[*worst].work,
                 limit_of_work(pulses[*worst])};
}

}  // namespace demist
