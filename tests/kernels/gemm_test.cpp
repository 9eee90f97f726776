// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/gemm.hpp"

#include <gtest/gtest.h>
#include <omp.h>
#include <pthread.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstring>
#include <limits>
#include <random>
#include <thread>
#include <vector>

namespace demist {
namespace {

constexpr std::int64_t kPadding = 5;  // leading dimensions exceed the columns by this
constexpr Transpose kTransposes[] = {Transpose::none, Transpose::b, Transpose::a};

// A matrix inside a larger allocation; `fill` seeds normal numbers.
Tensor padded(DType dtype, std::int64_t rows, std::int64_t cols, unsigned fill) {
  Tensor tensor(dtype, rows, cols + kPadding);
  std::mt19937 generator(fill);
  std::normal_distribution<float> normal;
  const TensorView view = tensor.view();
  for (std::int64_t i = 0; i < view.size(); ++i) {
    const float value = normal(generator);
    if (dtype == DType::f32)
      view.as<float>()[i] = value;
    else
      view.as<bf16>()[i] = bf16(value);
  }
  return tensor;
}
TensorView inside(Tensor& tensor) {
  return tensor.view().col_slice(0, tensor.view().cols - kPadding);
}

double at(ConstTensorView x, std::int64_t r, std::int64_t c) {
  return x.dtype == DType::f32 ? x.as<float>()[r * x.ld + c]
                               : static_cast<float>(x.as<bf16>()[r * x.ld + c]);
}

struct Sizes {
  std::int64_t m, n, k;
};

struct Operands {
  Tensor a, b;
  Operands(DType dtype, Sizes s, Transpose t)
      : a(t == Transpose::a ? padded(dtype, s.k, s.m, 1) : padded(dtype, s.m, s.k, 1)),
        b(t == Transpose::b ? padded(dtype, s.n, s.k, 2) : padded(dtype, s.k, s.n, 2)) {}
};

// Relative Frobenius error of gemm's result against sums in double.
double error_of(DType in, DType out, Sizes s, Transpose transpose, bool accumulate,
                std::span<const float> bias) {
  Operands x(in, s, transpose);
  const ConstTensorView a = inside(x.a), b = inside(x.b);
  Tensor result = padded(out, s.m, s.n, 3), before = padded(out, s.m, s.n, 3);
  cpu::gemm(inside(result), a, b, transpose, accumulate, bias);
  double difference = 0, norm = 0;
  for (std::int64_t i = 0; i < s.m; ++i)
    for (std::int64_t j = 0; j < s.n; ++j) {
      double sum = accumulate ? at(inside(before), i, j) : 0.0;
      if (!bias.empty()) sum += static_cast<double>(bias[static_cast<std::size_t>(j)]);
      for (std::int64_t k = 0; k < s.k; ++k)
        sum += (transpose == Transpose::a ? at(a, k, i) : at(a, i, k)) *
               (transpose == Transpose::b ? at(b, j, k) : at(b, k, j));
      const double error = at(inside(result), i, j) - sum;
      difference += error * error;
      norm += sum * sum;
    }
  for (std::int64_t i = 0; i < s.m; ++i)
    for (std::int64_t j = s.n; j < s.n + kPadding; ++j)
      EXPECT_EQ(at(result.view(), i, j), at(before.view(), i, j)) << "wrote outside the columns";
  return std::sqrt(difference / norm);
}

// One rounding to bf16 is 2^-9 / sqrt(3) on average.
double limit_of(DType out) { return out == DType::f32 ? 2e-6 : 2.5e-3; }

struct Types {
  DType in, out;
};
constexpr Types kTypes[] = {
    {DType::f32, DType::f32}, {DType::bf16, DType::f32}, {DType::bf16, DType::bf16}};

TEST(Gemm, MatchesTheOracle) {
  std::vector<float> bias(600);
  for (std::size_t i = 0; i < bias.size(); ++i) bias[i] = 0.75f + 0.01f * static_cast<float>(i);
  for (const auto& [in, out] : kTypes)
    for (const Transpose transpose : kTransposes)
      for (const Sizes s :
           {Sizes{1, 1, 1}, {3, 7, 5}, {64, 48, 100}, {1, 200, 64}, {65, 33, 2100}, {290, 530, 40}})
        for (const bool with_bias : {false, true}) {
          const auto used = with_bias ? std::span(bias).first(static_cast<std::size_t>(s.n))
                                      : std::span<const float>();
          EXPECT_LE(error_of(in, out, s, transpose, false, used), limit_of(out))
              << name_of(in) << "->" << name_of(out) << " transpose " << static_cast<int>(transpose)
              << " m " << s.m << " n " << s.n << " k " << s.k;
        }
}

TEST(Gemm, AddsToTheOutput) {
  for (const DType in : {DType::f32, DType::bf16})
    for (const Transpose transpose : kTransposes)
      for (const Sizes s : {Sizes{17, 40, 96}, {32, 64, 4100}})
        EXPECT_LE(error_of(in, DType::f32, s, transpose, true, {}), limit_of(DType::f32));
}

// Bits of the product on a number of threads.
std::vector<float> bits_on(int threads, DType in, Sizes s, Transpose transpose) {
  static const std::vector<float> noise = [] {
    std::vector<float> values(1 << 21);
    std::mt19937 generator(5);
    std::normal_distribution<float> normal;
    // Numbers in either type: read as bf16, every other one is 0.
    for (float& value : values) value = static_cast<float>(bf16(normal(generator)));
    return values;
  }();
  const auto view = [&](std::int64_t rows, std::int64_t cols) {
    return ConstTensorView{noise.data(), in, rows, cols, cols};
  };
  std::vector<float> out(static_cast<std::size_t>(s.m * s.n));
  const int before = omp_get_max_threads();
  omp_set_num_threads(threads);
  cpu::gemm(matrix(out.data(), s.m, s.n),
            transpose == Transpose::a ? view(s.k, s.m) : view(s.m, s.k),
            transpose == Transpose::b ? view(s.n, s.k) : view(s.k, s.n), transpose, false, {});
  omp_set_num_threads(before);
  return out;
}

// Left to itself oneDNN gives other bits on more threads: for narrow outputs with long reductions,
// and with AMX for most shapes.
TEST(Gemm, SameBitsOnAnyNumberOfThreads) {
  for (const DType in : {DType::f32, DType::bf16})
    for (const Transpose transpose : kTransposes)
      for (const Sizes s : {Sizes{32, 32, 64},
                            {32, 128, 2048},
                            {64, 64, 8192},
                            {128, 32, 4096},
                            {64, 192, 4096},
                            {192, 256, 1536},
                            {128, 512, 1024},
                            {384, 384, 2048},
                            {300, 1100, 1056}})
        for (const int threads : {2, 3})
          EXPECT_EQ(bits_on(1, in, s, transpose), bits_on(threads, in, s, transpose))
              << name_of(in) << " transpose " << static_cast<int>(transpose) << " m " << s.m
              << " n " << s.n << " k " << s.k << " threads " << threads;
}

TEST(Gemm, RunsInsideAParallelRegion) {
  constexpr Sizes kSizes{48, 64, 96};
  const auto expected = bits_on(1, DType::bf16, kSizes, Transpose::b);
  int equal = 0;
#pragma omp parallel for reduction(+ : equal) num_threads(3)
  for (int i = 0; i < 6; ++i) equal += bits_on(1, DType::bf16, kSizes, Transpose::b) == expected;
  EXPECT_EQ(equal, 6);
}

TEST(Gemm, EmptyReductionIsBiasOrNothing) {
  const std::vector<float> bias{1, 2, 3};
  std::vector<float> out(6, 9.0f);
  const float none = 0;
  const auto a = matrix(&none, 2, 0), b = matrix(&none, 0, 3);
  cpu::gemm(matrix(out.data(), 2, 3), a, b, Transpose::none, true, {});
  EXPECT_EQ(out, std::vector<float>(6, 9.0f));
  cpu::gemm(matrix(out.data(), 2, 3), a, b, Transpose::none, false, bias);
  EXPECT_EQ(out, (std::vector<float>{1, 2, 3, 1, 2, 3}));
  cpu::gemm(matrix(out.data(), 2, 3), a, b, Transpose::none, false, {});
  EXPECT_EQ(out, std::vector<float>(6, 0.0f));
  cpu::gemm(matrix(out.data(), 0, 3), matrix(&none, 0, 4), matrix(&none, 4, 3), Transpose::none,
            false, {});  // no rows: nothing happens
}

TEST(Gemm, NotANumberStaysVisible) {
  std::vector<float> a(64, 1.0f), b(64, 0.0f), out(64);
  a[0] = std::numeric_limits<float>::quiet_NaN();
  cpu::gemm(matrix(out.data(), 8, 8), matrix(a.data(), 8, 8), matrix(b.data(), 8, 8),
            Transpose::none, false, {});
  EXPECT_TRUE(std::isnan(out[0]));
}

// The handler's frame lies below the stack pointer. Where that is not the thread's own stack,
// the frame replaces whatever memory is there.
class SignalStorm {
 public:
  SignalStorm() {
    pthread_attr_t attributes;
    void* lowest = nullptr;
    std::size_t bytes = 0;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &lowest, &bytes);
    pthread_attr_destroy(&attributes);
    begin_ = reinterpret_cast<std::uintptr_t>(lowest);
    end_ = begin_ + bytes;
    struct sigaction action {};
    action.sa_handler = +[](int) {
      const auto here = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
      ++received_;
      if (here < begin_ || here >= end_) ++elsewhere_;
    };
    sigaction(SIGUSR1, &action, &before_);
    thread_ = std::jthread([target = pthread_self()](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        pthread_kill(target, SIGUSR1);
        std::this_thread::sleep_for(std::chrono::microseconds(20));
      }
    });
  }
  ~SignalStorm() {
    thread_ = {};
    sigaction(SIGUSR1, &before_, nullptr);
  }
  static int received() { return received_; }
  static int elsewhere() { return elsewhere_; }

 private:
  static inline std::uintptr_t begin_, end_;
  static inline std::atomic<int> received_ = 0, elsewhere_ = 0;
  struct sigaction before_ {};
  std::jthread thread_;
};

TEST(Gemm, ASignalFindsTheThreadsOwnStack) {
  const SignalStorm storm;
  constexpr Sizes kSizes[] = {{256, 512, 300}, {64, 64, 4096}, {32, 128, 9000}};
  for (int round = 0; round < 20 || SignalStorm::received() < 200; ++round)
    for (const Transpose transpose : kTransposes)
      for (const Sizes s : kSizes) bits_on(1, DType::f32, s, transpose);
  EXPECT_EQ(SignalStorm::elsewhere(), 0) << "of " << SignalStorm::received();
}

}  // namespace
}  // namespace demist
