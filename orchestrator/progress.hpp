// The line that tells how training and scoring go.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

namespace demist {

struct StepProgress {
  std::string stage;
  std::int64_t step = 0, total = 0;  // finished, of
  double loss = 0, grad_norm = 0, lr = 0;
  double tokens_per_second = 0;
  double peak_fraction = 0;  // of the measured peak; 0: unknown
  double eta_seconds = 0;
};
// "pretrain 120/300  loss 6.412  grad 1.23  lr 4.0e-04  12.3k tok/s  41% of peak  ETA 1:23"
std::string format_progress(const StepProgress& progress);

struct AnswerProgress {
  std::string stage;
  std::int64_t done = 0, total = 0;  // samples
  double seconds = 0;                // since the first began
};
// "score 120/687  34.5 samples/s  ETA 0:16"
std::string format_progress(const AnswerProgress& progress);

std::string format_duration(double seconds);  // "0:07", "12:34", "3:05:09", "2d 3:05:09"
std::string format_count(double value);       // "950", "12.3k", "4.56M"

enum class ProgressStyle { terminal, lines, none };  // in place; a line now and then; silent
ProgressStyle detect_progress_style();               // terminal when stderr is one

// Draws at most every tenth of a second (terminal) or every few seconds (lines).
class ProgressLine {
 public:
  ProgressLine(ProgressStyle style, std::FILE* out) : style_(style), out_(out) {}
  ~ProgressLine() { clear(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;
  // `now` in seconds of any steady clock; `last` is always drawn and ends its line.
  void show(const std::string& text, double now, bool last = false);
  void clear();  // before somebody else writes a line

 private:
  ProgressStyle style_;
  std::FILE* out_;
  double next_ = 0;
  bool drawn_ = false;
};

// Seconds of a steady clock.
double steady_seconds();
// Processor time of the calling thread.
double thread_seconds();

}  // namespace demist
