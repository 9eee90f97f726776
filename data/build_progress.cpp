// SPDX-License-Identifier: Apache-2.0
#include "data/build_progress.hpp"

#include <unistd.h>

#include <array>
#include <cstdio>

#include "core/log.hpp"

namespace demist::data {

BuildProgress::BuildProgress(const BuildPlan& plan)
    : total_bytes_(plan.total_bytes),
      total_is_known_(!plan.has_pipe),
      terminal_(::isatty(STDERR_FILENO) == 1),
      start_(Clock::now()),
      last_(start_) {}

void BuildProgress::add(const RangeResult& result, bool kept) {
  (kept ? kept_bytes_ : built_bytes_) += result.input_bytes;
  if (kept) return;
  for (const ManifestShard& shard : result.shards) built_tokens_ += shard.tokens;
}

std::string BuildProgress::line(Clock::time_point now, std::uint64_t under_way) const {
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const auto built = static_cast<double>(built_bytes_ + under_way);
  const double rate = built / seconds;
  std::array<char, 160> text{};
  int length = std::snprintf(text.data(), text.size(), "corpus: %.1f MB, %.1f MB/s",
                             (built + static_cast<double>(kept_bytes_)) / 1e6, rate / 1e6);
  const auto append = [&](auto... args) {
    length += std::snprintf(text.data() + length, text.size() - static_cast<std::size_t>(length),
                            args...);
  };
  // Tokens are counted when a range is finished; the one at hand has as many a byte.
  if (built_bytes_ > 0)
    append(", %.2f M tokens/s",
           rate * static_cast<double>(built_tokens_) / static_cast<double>(built_bytes_) / 1e6);
  if (!total_is_known_ || rate <= 0) return text.data();
  const auto total = static_cast<double>(total_bytes_);
  const double done = built + static_cast<double>(kept_bytes_);
  append(", %.0f %%, %.0f s left", 100 * done / total, (total - done) / rate);
  return text.data();
}

void BuildProgress::show(std::uint64_t under_way) {
  const auto now = Clock::now();
  const auto pause = terminal_ ? std::chrono::seconds(1) : std::chrono::seconds(10);
  if (now - last_ < pause) return;
  last_ = now;
  if (!terminal_) {
    log::info(line(now, under_way));
    return;
  }
  shown_ = true;
  std::fprintf(stderr, "\r%s\x1b[K", line(now, under_way).c_str());  // erases the longer old line
  std::fflush(stderr);
}

void BuildProgress::end() {
  if (shown_) std::fputc('\n', stderr);
  shown_ = false;
}

}  // namespace demist::data
