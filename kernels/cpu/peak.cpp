// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/peak.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>
#include <vector>

#include "core/parallel_for.hpp"
#include "kernels/cpu/gemm.hpp"

namespace demist::cpu {
namespace {

using Clock = std::chrono::steady_clock;

// Large enough to be limited by arithmetic; three fp32 matrices are 0.75 MiB.
constexpr std::int64_t kSide = 256;

// The best of many short slices counts: other work on the core only ever takes away.
constexpr double kSlices = 25;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// One core's product. oneDNN compiles it on the first run.
class TimedProduct {
 public:
  explicit TimedProduct(DType compute)
      : a_(compute, kSide, kSide), b_(compute, kSide, kSide), out_(DType::f32, kSide, kSide) {
    for (Tensor* operand : {&a_, &b_})
      std::memset(operand->view().data, 0x3f, operand->bytes());  // 0.75 in bf16 and in fp32
    run();
  }
  void run() { gemm(out_.view(), a_.view(), b_.view(), Transpose::none, false, {}); }
  // FLOP/s over about `seconds`.
  double rate(double seconds) {
    const auto begin = Clock::now();
    double count = 0, elapsed = 0;
    do {
      run();
      ++count;
      elapsed = seconds_since(begin);
    } while (elapsed < seconds);
    return 2.0 * kSide * kSide * kSide * count / elapsed;
  }

 private:
  Tensor a_, b_, out_;
};

}  // namespace

double measure_peak(DType compute, double seconds) {
  std::vector<double> rates(static_cast<std::size_t>(omp_get_max_threads()));
  parallel_for(omp_get_max_threads(), [&](std::int64_t thread) {
    TimedProduct product(compute);
    const auto begin = Clock::now();
    double best = 0;
    do {
      best = std::max(best, product.rate(seconds / kSlices));
    } while (seconds_since(begin) < seconds);
    rates[static_cast<std::size_t>(thread)] = best;
  });
  return std::accumulate(rates.begin(), rates.end(), 0.0);
}

}  // namespace demist::cpu
