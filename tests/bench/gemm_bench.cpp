// SPDX-License-Identifier: Apache-2.0
// GFLOP/s of the matrix products of one XLM-R-base layer (2,048 tokens) and of a small model's.
#include <chrono>
#include <cstdio>
#include <vector>

#include "core/parallel_for.hpp"
#include "kernels/cpu/gemm.hpp"

namespace demist {
namespace {

struct Shape {
  std::int64_t tokens, in, out;
};

template <class T>
void measure(Shape shape, Transpose transpose) {
  const bool weight_gradient = transpose == Transpose::a;
  const std::int64_t m = weight_gradient ? shape.out : shape.tokens;
  const std::int64_t n = transpose == Transpose::b ? shape.out : shape.in;
  const std::int64_t k = weight_gradient             ? shape.tokens
                         : transpose == Transpose::b ? shape.in
                                                     : shape.out;
  std::vector<T> a(static_cast<std::size_t>(m * k), T(0.5f));
  std::vector<T> b(static_cast<std::size_t>(n * k), T(0.25f));
  Tensor out(weight_gradient ? DType::f32 : dtype_of<T>(), m, n);
  const auto av =
      weight_gradient ? matrix<const T>(a.data(), k, m) : matrix<const T>(a.data(), m, k);
  const auto bv =
      transpose == Transpose::b ? matrix<const T>(b.data(), n, k) : matrix<const T>(b.data(), k, n);
  double best = 1e9;
  for (int i = 0; i < 8; ++i) {
    const auto start = std::chrono::steady_clock::now();
    cpu::gemm(out.view(), av, bv, transpose, weight_gradient, {});
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::min(best, seconds.count());
  }
  static constexpr const char* kNames[] = {"NN", "NT", "TN"};
  std::printf("%s %s m %5ld n %5ld k %5ld  %7.1f GFLOP/s\n", name_of(dtype_of<T>()),
              kNames[static_cast<int>(transpose)], static_cast<long>(m), static_cast<long>(n),
              static_cast<long>(k), 2e-9 * static_cast<double>(m * n * k) / best);
}

}  // namespace
}  // namespace demist

int main() {
  using namespace demist;
  use_threads(omp_get_max_threads(), 0, 1);
  for (const Shape shape : {Shape{2048, 768, 2304},
                            {2048, 768, 768},
                            {2048, 768, 3072},
                            {2048, 3072, 768},
                            {4096, 384, 1536},
                            {4096, 384, 384}})
    for (const auto transpose : {Transpose::b, Transpose::none, Transpose::a}) {
      measure<bf16>(shape, transpose);
      measure<float>(shape, transpose);
    }
}
