// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/goodput.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <unordered_set>
#include <vector>

#include "orchestrator/events.hpp"
#include "orchestrator/progress.hpp"

namespace demist {
namespace {

using Line = GoodputLine;
using Event = GoodputLine::Event;

// Of the lines of one step the last stands.
void find_repeated(std::vector<Line>& lines) {
  std::vector<std::unordered_set<std::int64_t>> later;  // of each stage
  for (auto line = lines.rbegin(); line != lines.rend(); ++line) {
    if (line->event != Event::step) continue;
    if (later.size() <= line->stage) later.resize(line->stage + 1);
    if (!later[line->stage].insert(line->step).second) line->counts = false;
  }
}

bool is_earlier(const Line& a, const Line& b) { return a.time < b.time; }

// A million lines that are in order already are not worth a sort.
void sort_by_time(std::vector<Line>::iterator begin, std::vector<Line>::iterator end) {
  if (!std::is_sorted(begin, end, is_earlier)) std::stable_sort(begin, end, is_earlier);
}

// Walks through the lines in time and gives every second between them to one field.
class Account {
 public:
  void add(const Line& line) {
    const double begin = line.time - line.seconds;
    if (first_) last_ = begin;
    first_ = false;
    if (prepares(line)) return;
    if (line.event == Event::attempt || line.event == Event::start) add_preparation();
    submitted_ = job_started_ = run_started_ = 0;
    spend_until(begin, field_of_gap(line));
    add_duration(line, std::min(line.seconds, line.time - last_));
    last_ = std::max(last_, line.time);
    enter_state(line);
  }
  const Goodput& goodput() const { return goodput_; }

 private:
  enum class State { idle, preparing, starting, training, failed };

  // What leads to an attempt. It counts from there: a second supervisor in the folder is refused,
  // and jobs are submitted while others work.
  bool prepares(const Line& line) {
    if (line.event == Event::submitted)
      submitted_ = line.time;
    else if (line.event == Event::job_start)
      job_started_ = line.time;
    else if (line.event == Event::run_start)
      run_started_ = line.time;
    else
      return false;
    return true;
  }
  void add_preparation() {
    const double start = job_started_ > 0 ? job_started_ : run_started_;
    if (start == 0) return;
    // A job that was not submitted anew had been requeued, or waited for the one before.
    spend_until(submitted_, &Goodput::idle);
    spend_until(start, job_started_ > 0 ? &Goodput::queued : &Goodput::idle);
    state_ = State::preparing;
  }
  void spend_until(double time, double Goodput::*field) {
    goodput_.*field += std::max(0.0, time - last_);
    last_ = std::max(last_, time);
  }

  double Goodput::*field_of_gap(const Line& line) const {
    const bool ended = line.event == Event::attempt_ended;
    switch (state_) {
      case State::preparing:
        return &Goodput::start;
      case State::failed:
        return &Goodput::lost;
      case State::starting:
        if (ended) return line.code == 0 ? &Goodput::useful : &Goodput::lost;
        return line.event == Event::attempt ? &Goodput::idle : &Goodput::start;
      case State::training:
        if (ended && line.code != 0) return &Goodput::lost;
        // Nobody saw the end of the attempt before: the machine was gone, or a job was queued.
        return line.event == Event::attempt || line.event == Event::start ? &Goodput::idle
                                                                          : &Goodput::other;
      case State::idle:
        break;
    }
    return &Goodput::idle;
  }

  void add_duration(const Line& line, double seconds) {
    if (seconds <= 0) return;
    if (line.event == Event::start) goodput_.start += seconds;
    if (line.event == Event::save) goodput_.save += seconds;
    if (line.event == Event::held_out) goodput_.evaluate += seconds;
    if (line.event != Event::step) return;
    if (!line.counts) {
      goodput_.lost += seconds;
      return;
    }
    const double waited = std::min(seconds, line.load_seconds);
    goodput_.data_wait += waited;
    goodput_.useful += seconds - waited;
  }

  void enter_state(const Line& line) {
    if (line.event == Event::attempt || line.event == Event::start)
      state_ = State::starting;
    else if (line.event == Event::attempt_ended)
      state_ = line.again ? State::failed : State::idle;
    else
      state_ = State::training;
  }

  Goodput goodput_;
  State state_ = State::idle;
  double last_ = 0;
  bool first_ = true;
  double submitted_ = 0, job_started_ = 0, run_started_ = 0;  // since the last line; 0: not
};

// Lines of one time stay in their order, those of metrics.jsonl before those of events.jsonl.
Goodput account_of(std::vector<GoodputLine> lines, const std::vector<GoodputLine>& events) {
  find_repeated(lines);
  const auto metrics = static_cast<std::ptrdiff_t>(lines.size());
  lines.insert(lines.end(), events.begin(), events.end());
  sort_by_time(lines.begin(), lines.begin() + metrics);
  sort_by_time(lines.begin() + metrics, lines.end());
  std::inplace_merge(lines.begin(), lines.begin() + metrics, lines.end(), is_earlier);
  Account account;
  for (const Line& line : lines) account.add(line);
  return account.goodput();
}

}  // namespace

Goodput goodput_of(std::string_view metrics, std::string_view events) {
  GoodputLines of_metrics, of_events;
  of_metrics.read(metrics);
  of_events.read(events);
  return account_of(of_metrics.lines(), of_events.lines());
}

Goodput goodput_of(const std::filesystem::path& run_dir) { return GoodputReader(run_dir).read(); }

GoodputReader::GoodputReader(const std::filesystem::path& run_dir)
    : metrics_{GrowingFile(run_dir / "metrics.jsonl"), {}},
      events_{GrowingFile(run_dir / kEventFile), {}} {}

Goodput GoodputReader::read() { return account_of(metrics_.read(), events_.read()); }

std::vector<GoodputLine> GoodputReader::Source::read() {
  if (file.begins_anew()) whole.clear();
  file.read([this](std::string_view text) { whole.read(text); });
  return whole.with(file.unfinished());
}

std::string format(const Goodput& g) {
  std::array<char, 32> share{};
  std::snprintf(share.data(), share.size(), "%.1f %%", 100 * g.share());
  std::string text = "goodput " + std::string(share.data()) + ": " + format_duration(g.useful) +
                     " of " + format_duration(g.working()) + " useful; start " +
                     format_duration(g.start) + ", data " + format_duration(g.data_wait) +
                     ", save " + format_duration(g.save) + ", evaluate " +
                     format_duration(g.evaluate) + ", lost " + format_duration(g.lost) +
                     ", other " + format_duration(g.other);
  if (g.queued >= 1) text += "; queued " + format_duration(g.queued);
  if (g.idle >= 1) text += "; idle " + format_duration(g.idle);
  return text;
}

}  // namespace demist
