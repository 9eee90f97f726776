// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/goodput.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/error.hpp"
#include "core/file.hpp"
#include "orchestrator/events.hpp"
#include "orchestrator/progress.hpp"

namespace demist {
namespace {

struct Line {
  double time = 0;
  std::string event, stage;
  std::int64_t step = 0;
  double seconds = 0, load_seconds = 0;  // that end at `time`
  bool counts = true;                    // a step: it was applied and not done again
  int code = 0;
  bool again = false;
};

constexpr std::array kKnown = {"start",         "step",      "held_out",  "save",     "attempt",
                               "attempt_ended", "submitted", "job_start", "run_start"};

void read_lines(std::string_view text, std::vector<Line>& lines) {
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const auto json = nlohmann::json::parse(text.substr(0, end), nullptr, false);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (!json.is_object()) continue;
    Line line;
    line.event = json.value("event", "");
    if (std::find(kKnown.begin(), kKnown.end(), line.event) == kKnown.end()) continue;
    line.time = json.value("time", 0.0);
    line.stage = json.value("stage", "");
    line.step = json.value("step", std::int64_t{0});
    line.seconds = json.value("seconds", 0.0);
    line.load_seconds = std::min(line.seconds, json.value("load_seconds", 0.0));
    line.counts = !json.contains("skipped");
    line.code = json.value("code", 0);
    line.again = json.value("again", false);
    lines.push_back(std::move(line));
  }
}

// Of the lines of one step the last stands.
void find_repeated(std::vector<Line>& lines) {
  std::map<std::string, std::map<std::int64_t, Line*>> last;
  for (Line& line : lines) {
    if (line.event != "step") continue;
    Line*& before = last[line.stage][line.step];
    if (before != nullptr) before->counts = false;
    before = &line;
  }
}

// Walks through the lines in time and gives every second between them to one field.
class Account {
 public:
  void add(const Line& line) {
    const double begin = line.time - line.seconds;
    if (first_) last_ = begin;
    first_ = false;
    if (prepares(line)) return;
    if (line.event == "attempt" || line.event == "start") add_preparation();
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
    if (line.event == "submitted")
      submitted_ = line.time;
    else if (line.event == "job_start")
      job_started_ = line.time;
    else if (line.event == "run_start")
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
    const bool ended = line.event == "attempt_ended";
    switch (state_) {
      case State::preparing:
        return &Goodput::start;
      case State::failed:
        return &Goodput::lost;
      case State::starting:
        if (ended) return line.code == 0 ? &Goodput::useful : &Goodput::lost;
        return line.event == "attempt" ? &Goodput::idle : &Goodput::start;
      case State::training:
        if (ended && line.code != 0) return &Goodput::lost;
        // Nobody saw the end of the attempt before: the machine was gone, or a job was queued.
        return line.event == "attempt" || line.event == "start" ? &Goodput::idle : &Goodput::other;
      case State::idle:
        break;
    }
    return &Goodput::idle;
  }

  void add_duration(const Line& line, double seconds) {
    if (seconds <= 0) return;
    if (line.event == "start") goodput_.start += seconds;
    if (line.event == "save") goodput_.save += seconds;
    if (line.event == "held_out") goodput_.evaluate += seconds;
    if (line.event != "step") return;
    if (!line.counts) {
      goodput_.lost += seconds;
      return;
    }
    const double waited = std::min(seconds, line.load_seconds);
    goodput_.data_wait += waited;
    goodput_.useful += seconds - waited;
  }

  void enter_state(const Line& line) {
    if (line.event == "attempt" || line.event == "start")
      state_ = State::starting;
    else if (line.event == "attempt_ended")
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

std::string content(const std::filesystem::path& file) {
  return std::filesystem::exists(file) ? read_file(file) : std::string();
}

}  // namespace

Goodput goodput_of(std::string_view metrics, std::string_view events) {
  std::vector<Line> lines;
  read_lines(metrics, lines);
  find_repeated(lines);
  read_lines(events, lines);
  std::stable_sort(lines.begin(), lines.end(),
                   [](const Line& a, const Line& b) { return a.time < b.time; });
  Account account;
  for (const Line& line : lines) account.add(line);
  return account.goodput();
}

Goodput goodput_of(const std::filesystem::path& run_dir) {
  return goodput_of(content(run_dir / "metrics.jsonl"), content(run_dir / kEventFile));
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
