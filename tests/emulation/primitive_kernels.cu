// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/device.hpp"
#include "tests/emulation/primitive_kernels.hpp"

namespace demist::cuda::test {
namespace {

template <class T>
__global__ void shuffle_kernel(T* out, const T* in) {
  const int lane = static_cast<int>(threadIdx.x);
  const T value = in[lane];
  out[kIndex5 * 32 + lane] = __shfl_sync(kFullWarp, value, 5);
  out[kXor3 * 32 + lane] = __shfl_xor_sync(kFullWarp, value, 3);
  out[kDown4 * 32 + lane] = __shfl_down_sync(kFullWarp, value, 4);
  out[kUp2 * 32 + lane] = __shfl_up_sync(kFullWarp, value, 2);
  out[kWidth8Xor4 * 32 + lane] = __shfl_xor_sync(kFullWarp, value, 4, 8);
  out[kWidth8Index9 * 32 + lane] = __shfl_sync(kFullWarp, value, 9, 8);
}

}  // namespace

void shuffle_int(int* out, const int* in, cudaStream_t stream) {
  launch(shuffle_kernel<int>, 1, 32, 0, stream, out, in);
}
void shuffle_int64(std::int64_t* out, const std::int64_t* in, cudaStream_t stream) {
  launch(shuffle_kernel<std::int64_t>, 1, 32, 0, stream, out, in);
}
void shuffle_float(float* out, const float* in, cudaStream_t stream) {
  launch(shuffle_kernel<float>, 1, 32, 0, stream, out, in);
}
void shuffle_double(double* out, const double* in, cudaStream_t stream) {
  launch(shuffle_kernel<double>, 1, 32, 0, stream, out, in);
}

}  // namespace demist::cuda::test
