// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/chunk.hpp"
#include "kernels/cuda/combine_terms.hpp"
#include "kernels/cuda/row_launch.hpp"

namespace demist::cuda {
namespace {

constexpr int kThreads = 256;

struct Sum {
  __device__ float operator()(float a, float b) const { return a + b; }
};

struct Max {
  __device__ float operator()(float a, float b) const {
    if (a != a || b != b) return a + b;
    if (a == b) return a == 0 ? a + b : a;  // +0 is the larger zero
    return a < b ? b : a;
  }
};

// One element a thread and pass; neighbours in memory are neighbours in a warp. 2 or 4 bytes a
// thread fill whole sectors of 32, so wider accesses would save instructions and no traffic; slices
// need not start at multiples of 16 bytes.
template <class Combine, class Out>
__global__ void combine(Out* out, FloatTerms terms, std::int64_t size) {
  const Combine with;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < size;
       i += step) {
    float value = terms.rank == 0 ? terms.own[i] : terms.others[i];
    for (int r = 1; r <= terms.count; ++r) {
      const int other = r < terms.rank ? r : r - 1;
      const float term = r == terms.rank ? terms.own[i] : terms.others[other * terms.stride + i];
      value = with(value, term);
    }
    out[i] = from_float<Out>(value);
  }
}

template <class Combine, class Out>
void run(cudaStream_t stream, Out* out, const FloatTerms& terms, std::int64_t size) {
  constexpr std::int64_t kMaxBlocks = 4096;
  if (size == 0) return;
  launch(combine<Combine, Out>, blocks(std::min(ceil_div(size, kThreads), kMaxBlocks)), kThreads, 0,
         stream, out, terms, size);
}

}  // namespace

void sum_terms(cudaStream_t stream, const TensorView& out, const FloatTerms& terms) {
  with_element(out.dtype,
               [&]<class T>() { run<Sum>(stream, static_cast<T*>(out.data), terms, out.cols); });
}
void max_terms(cudaStream_t stream, const TensorView& out, const FloatTerms& terms) {
  run<Max>(stream, out.as<float>(), terms, out.cols);
}

}  // namespace demist::cuda
