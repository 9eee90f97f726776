// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/layout.hpp"

#include <algorithm>

#include "core/error.hpp"

namespace demist::checkpoint {

bool Stripe::valid(std::int64_t limit) const {
  if (start < 0 || count < 1 || repeat < 1 || start > limit || count > limit - start) return false;
  if (repeat == 1) return stride == 0;
  return stride > count && repeat - 1 <= (limit - start - count) / stride;
}

std::vector<Stripe> to_stripes(std::span<const Run> runs) {
  std::vector<Stripe> stripes;
  for (const Run& run : runs) {
    if (!stripes.empty() && stripes.back().count == run.count) {
      Stripe& last = stripes.back();
      if (last.repeat == 1) last.stride = run.start - last.start;
      if (run.start == last.start + last.repeat * last.stride) {
        ++last.repeat;
        continue;
      }
    }
    stripes.push_back({run.start, run.count, 0, 1});
  }
  return stripes;
}

void append_runs(const Stripe& stripe, std::vector<Run>& runs) {
  for (std::int64_t i = 0; i < stripe.repeat; ++i)
    runs.push_back({stripe.start + i * stripe.stride, stripe.count});
}

std::vector<std::int64_t> flat(std::span<const Stripe> stripes) {
  std::vector<std::int64_t> numbers;
  for (const Stripe& s : stripes)
    numbers.insert(numbers.end(), {s.start, s.count, s.stride, s.repeat});
  return numbers;
}

void check_tiling(std::vector<Run>& runs, std::int64_t size, const std::string& what) {
  std::ranges::sort(runs, {}, &Run::start);
  const auto fail = [&](std::int64_t begin, std::int64_t end, const char* how) {
    throw CheckpointError(what + ": elements [" + std::to_string(begin) + ", " +
                          std::to_string(end) + ") are " + how);
  };
  std::int64_t at = 0;
  for (const Run& run : runs) {
    if (run.start > at) fail(at, run.start, "missing");
    if (run.start < at) fail(run.start, std::min(at, run.start + run.count), "stored twice");
    at = run.start + run.count;
  }
  if (at < size) fail(at, size, "missing");
  if (at > size) fail(size, at, "outside the tensor");
}

}  // namespace demist::checkpoint
