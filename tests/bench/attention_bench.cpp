// SPDX-License-Identifier: Apache-2.0
// GFLOP/s of attention's matrix products: 2 forward, 5 backward. The first number is by the clock
// on the wall, the second by the threads' own time, which other programs do not disturb.
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>
#include <vector>

#include "core/parallel_for.hpp"
#include "kernels/backend.hpp"

namespace demist {
namespace {

struct Shape {
  std::int64_t rows, cols, heads, head_dim;
};

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

template <class Body>
void report(const char* what, double flops, Body&& body) {
  double wall = 1e9, cpu = 1e9;
  for (int i = 0; i < 15; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const double cpu_start = cpu_seconds();
    body();
    cpu = std::min(cpu, (cpu_seconds() - cpu_start) / omp_get_max_threads());
    wall = std::min(
        wall, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::printf("  %s %6.2f ms %6.1f GFLOP/s (own time %6.2f ms %6.1f)", what, 1e3 * wall,
              1e-9 * flops / wall, 1e3 * cpu, 1e-9 * flops / cpu);
}

void measure(Backend& backend, DType dtype, Shape s, float p) {
  const std::int64_t n = s.rows * s.cols, width = s.heads * s.head_dim;
  std::vector<float> values(static_cast<std::size_t>(n * 3 * width));
  std::minstd_rand generator(1);
  for (float& v : values) v = 4e-9f * static_cast<float>(generator()) - 4.0f;
  const auto uniform = matrix<const float>(values.data(), n, 3 * width);
  Tensor qkv(dtype, n, 3 * width), dqkv(dtype, n, 3 * width), out(dtype, n, width);
  Tensor dout(dtype, n, width), lse(DType::f32, s.heads, n);
  backend.convert(qkv.view(), uniform);
  backend.convert(dout.view(), uniform.col_slice(0, width));
  const std::vector<std::uint64_t> sample(static_cast<std::size_t>(s.rows), 1);
  const std::vector<std::int32_t> begin(static_cast<std::size_t>(n), 0);
  const std::vector<std::int32_t> end(static_cast<std::size_t>(n),
                                      static_cast<std::int32_t>(s.cols));
  const Attention op{s.heads, 0, s.head_dim, {s.rows, s.cols, sample}, {begin, end}, {p, 3}};
  const double product = 2.0 * static_cast<double>(n * s.cols * width);
  std::printf("%-11s %s %2ldx%ld, %ld x %ld, dropout %.1f", backend.name().c_str(), name_of(dtype),
              static_cast<long>(s.rows), static_cast<long>(s.cols), static_cast<long>(s.heads),
              static_cast<long>(s.head_dim), static_cast<double>(p));
  report("forward", 2 * product,
         [&] { backend.attention_forward(out.view(), lse.view(), qkv.view(), op); });
  report("backward", 5 * product, [&] {
    backend.attention_backward(dqkv.view(), dout.view(), qkv.view(), out.view(), lse.view(), op);
  });
  std::printf("\n");
}

}  // namespace
}  // namespace demist

int main(int argc, char** argv) {
  using namespace demist;
  use_threads(omp_get_max_threads(), 0, 1);
  const auto backend = make_cpu_backend(argc > 1 ? argv[1] : "");
  for (const DType dtype : {DType::bf16, DType::f32})
    for (const Shape shape : {Shape{8, 256, 12, 64}, {32, 128, 6, 64}, {4, 512, 12, 64}})
      for (const float p : {0.0f, 0.1f}) measure(*backend, dtype, shape, p);
}
