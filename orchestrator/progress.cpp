// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/progress.hpp"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>

#include "orchestrator/format.hpp"

namespace demist {
namespace {

constexpr double kTerminalInterval = 0.1, kLineInterval = 5;  // seconds

}  // namespace

std::string format_duration(double seconds) {
  constexpr double most = 1e15;  // thirty million years: no time, and soon no `long`
  if (!(seconds >= 0 && seconds < most)) return "?";
  const auto total = static_cast<long>(std::lround(seconds));
  const long days = total / 86400, hours = total / 3600 % 24, minutes = total / 60 % 60,
             rest = total % 60;
  if (days > 0) return print("%ldd %ld:%02ld:%02ld", days, hours, minutes, rest);
  if (hours > 0) return print("%ld:%02ld:%02ld", hours, minutes, rest);
  return print("%ld:%02ld", minutes, rest);
}

std::string format_count(double value) {
  if (value < 999.5) return print("%.0f", value);
  if (value < 99950) return print("%.1fk", value / 1e3);
  if (value < 999500) return print("%.0fk", value / 1e3);
  return print("%.2fM", value / 1e6);
}

std::string format_progress(const StepProgress& p) {
  std::string text =
      p.stage + print(" %lld/%lld  loss %.4f  grad %.3g  lr %.2e  ", static_cast<long long>(p.step),
                      static_cast<long long>(p.total), p.loss, p.grad_norm, p.lr);
  text += format_count(p.tokens_per_second) + " tok/s";
  if (p.peak_fraction > 0) text += print("  %.0f%% of peak", 100 * p.peak_fraction);
  return text + "  ETA " + format_duration(p.eta_seconds);
}

std::string format_progress(const AnswerProgress& p) {
  const double rate = static_cast<double>(p.done) / std::max(p.seconds, 1e-9);
  return p.stage +
         print(" %lld/%lld  %.3g samples/s  ETA ", static_cast<long long>(p.done),
               static_cast<long long>(p.total), rate) +
         format_duration(static_cast<double>(p.total - p.done) / rate);
}

ProgressStyle detect_progress_style() {
  return ::isatty(STDERR_FILENO) == 1 ? ProgressStyle::terminal : ProgressStyle::lines;
}

void ProgressLine::show(const std::string& text, double now, bool last) {
  if (style_ == ProgressStyle::none || (now < next_ && !last)) return;
  if (style_ == ProgressStyle::lines) {
    std::fprintf(out_, "%s\n", text.c_str());
    next_ = now + kLineInterval;
  } else {
    // Back to the first column; erase what a longer line left behind it.
    std::fprintf(out_, "\r%s\033[K%s", text.c_str(), last ? "\n" : "");
    drawn_ = !last;
    next_ = now + kTerminalInterval;
  }
  std::fflush(out_);
}

void ProgressLine::clear() {
  if (!drawn_) return;
  std::fputs("\r\033[K", out_);
  std::fflush(out_);
  drawn_ = false;
}

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double thread_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace demist
