// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/device.hpp"
#include "tests/emulation/primitive_kernels.hpp"

namespace demist::cuda::test {
namespace {

__device__ int lane_index() { return static_cast<int>(threadIdx.x % kWarpSize); }
__device__ int global_index() { return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); }
unsigned blocks_for(int n, int threads) {
  return static_cast<unsigned>((n + threads - 1) / threads);
}

template <class T>
__global__ void shuffle_kernel(T* out, const T* in) {
  const int lane = lane_index();
  const T value = in[lane];
  out[kIndex5 * 32 + lane] = __shfl_sync(kFullWarp, value, 5);
  out[kXor3 * 32 + lane] = __shfl_xor_sync(kFullWarp, value, 3);
  out[kDown4 * 32 + lane] = __shfl_down_sync(kFullWarp, value, 4);
  out[kUp2 * 32 + lane] = __shfl_up_sync(kFullWarp, value, 2);
  out[kWidth8Xor4 * 32 + lane] = __shfl_xor_sync(kFullWarp, value, 4, 8);
  out[kWidth8Index9 * 32 + lane] = __shfl_sync(kFullWarp, value, 9, 8);
}

template <class T>
__global__ void reduce_kernel(T* out, const T* in) {
  const int lane = lane_index();
  out[lane] = warp_sum(in[lane]);
  out[32 + lane] = warp_max(in[lane]);
}

__global__ void vote_kernel(unsigned* out, const int* in) {
  const int lane = lane_index();
  out[lane] = __ballot_sync(kFullWarp, in[lane]);
  out[32 + lane] = static_cast<unsigned>(__any_sync(kFullWarp, in[lane]));
  out[64 + lane] = static_cast<unsigned>(__all_sync(kFullWarp, in[lane]));
  const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  out[96 + lane] = __ballot_sync(half, in[lane]);
}

__global__ void atomics_kernel(AtomicResults results) {
  const int number = global_index();
  atomicAdd(results.sum, 1);
  atomicAdd(results.long_sum, 1ull << 33);
  atomicMax(results.largest, number);
  atomicMin(results.smallest, number);
  if (lane_index() != 0) return;
  unsigned seen = atomicAdd(results.tickets, 0u), expected = 0;
  do {
    expected = seen;
    seen = atomicCAS(results.tickets, expected, expected + 1);
  } while (seen != expected);
}

template <class T>
__global__ void copy_vectors_kernel(T* out, const T* in, int vectors) {
  const int i = global_index();
  if (i >= vectors) return;
  const int at = i * Vec16<T>::kSize;
  Vec16<T> v = i % 3 == 0   ? load_16(in + at)
               : i % 3 == 1 ? load_readonly_16(in + at)
                            : load_stream_16(in + at);
  if (i % 2 == 0)
    store_16(out + at, v);
  else
    store_stream_16(out + at, v);
}

__device__ unsigned pair_at(const bf16* first, const bf16* second) {
  std::uint16_t low, high;
  memcpy(&low, first, sizeof low);
  memcpy(&high, second, sizeof high);
  return low | static_cast<unsigned>(high) << 16;
}

__global__ void mma_kernel(float* out, const bf16* a, const bf16* b, const float* c) {
  const int group = lane_index() / 4, pair = lane_index() % 4 * 2;
  unsigned a_part[4], b_part[2];
  float sum[4];
  for (int i = 0; i < 4; ++i) {
    const bf16* from = a + (group + i % 2 * 8) * 16 + pair + i / 2 * 8;
    a_part[i] = pair_at(from, from + 1);
    sum[i] = c[(group + i / 2 * 8) * 8 + pair + i % 2];
  }
  for (int i = 0; i < 2; ++i) {
    const bf16* from = b + (pair + i * 8) * 8 + group;
    b_part[i] = pair_at(from, from + 8);
  }
  mma_m16n8k16_bf16(sum, a_part, b_part, sum);
  for (int i = 0; i < 4; ++i) out[(group + i / 2 * 8) * 8 + pair + i % 2] = sum[i];
}

constexpr int kMatrixStride = 24;  // 48 bytes: aligned, and no multiple of 128

__global__ void load_matrices_kernel(unsigned* out, const std::uint16_t* matrix) {
  using Rows = std::uint16_t[32][kMatrixStride];
  auto& rows =
      *reinterpret_cast<Rows*>(shared<uint4[sizeof(Rows) / sizeof(uint4)], struct Matrix>());
  const int lane = lane_index();
  for (int i = 0; i < 8; ++i) rows[lane][i] = matrix[lane * 8 + i];
  __syncthreads();
  unsigned two[2], four[4];
  unsigned* own = out + lane * 4;
  ldmatrix_x2(two, rows[lane % 16]);
  own[0] = two[0], own[1] = two[1];
  ldmatrix_x2_trans(two, rows[lane % 16]);
  own[128] = two[0], own[129] = two[1];
  ldmatrix_x4(four, rows[lane]);
  for (int i = 0; i < 4; ++i) own[256 + i] = four[i];
  ldmatrix_x4_trans(four, rows[lane]);
  for (int i = 0; i < 4; ++i) own[384 + i] = four[i];
}

struct PipelineTile {
  int4 piece[32];
};

__global__ void copy_pipeline_kernel(int4* out, const int4* in, int tiles, int valid) {
  auto& ring = shared<PipelineTile[3], struct Ring>();
  const int lane = lane_index();
  const auto fetch = [&](int tile) {
    const int i = tile * 32 + lane;
    if (tile < tiles)
      copy_async_16(&ring[tile % 3].piece[lane], in + (i < valid ? i : 0), i < valid);
    copy_async_commit();  // empty groups keep the count
  };
  fetch(0);
  fetch(1);
  for (int tile = 0; tile < tiles; ++tile) {
    fetch(tile + 2);
    copy_async_wait<2>();
    __syncthreads();
    out[tile * 32 + lane] = ring[tile % 3].piece[31 - lane];
    __syncthreads();
  }
}

__global__ void reverse_blocks_kernel(int* out, const int* in) {
  auto& fixed = shared<int[1024], struct Reversed>();
  int* dynamic = dynamic_shared<int>();
  const unsigned i = threadIdx.x, mirrored = blockDim.x - 1 - i;
  fixed[i] = in[i];
  __syncthreads();
  dynamic[i] = fixed[mirrored];
  __syncthreads();
  out[i] = dynamic[i];
  out[blockDim.x + i] = dynamic[mirrored];
}

__global__ void rotate_warp_kernel(int* out, const int* in) {
  auto& values = shared<int[32], struct Rotated>();
  const int lane = lane_index();
  values[lane] = in[lane];
  __syncwarp();
  out[lane] = values[(lane + 1) % 32];
}

__global__ void apply_kernel(float* out, const float* in, int n, FloatFunction function) {
  const int i = global_index();
  if (i >= n) return;
  const float x = in[i];
  out[i] = function == kExp2    ? fast_exp2(x)
           : function == kExp   ? __expf(x)
           : function == kLog   ? __logf(x)
           : function == kRsqrt ? rsqrtf(x)
                                : __fdividef(x, 3.0f);
}

__global__ void round_kernel(Rounded* out, const float* floats, const double* doubles, int n) {
  const int i = global_index();
  if (i >= n) return;
  out[i] = {__float2int_rn(floats[i]), __float2ll_rn(floats[i]), __double2ll_rn(doubles[i]),
            __double2float_rn(doubles[i])};
}

__global__ void bits_kernel(Bits* out, const unsigned* in, int n) {
  const int i = global_index();
  if (i >= n) return;
  const auto number = static_cast<int>(in[i]);
  out[i] = {__popc(in[i]), __clz(number), __ffs(number), __umulhi(in[i], 0x9E3779B9u),
            __float_as_uint(__uint_as_float(in[i]))};
}

__global__ void pack_kernel(unsigned* out, const float* in, int pairs) {
  const int i = global_index();
  if (i < pairs) out[i] = pack_bf16(in[2 * i], in[2 * i + 1]);
}

__global__ void positions_kernel(Position* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned size = blockDim.x * blockDim.y * blockDim.z;
  out[block * size + thread] = {threadIdx, blockIdx, blockDim, gridDim};
}

}  // namespace

template <class T>
void shuffle(T* out, const T* in, cudaStream_t stream) {
  launch(shuffle_kernel<T>, 1, 32, 0, stream, out, in);
}
template void shuffle(int*, const int*, cudaStream_t);
template void shuffle(std::int64_t*, const std::int64_t*, cudaStream_t);
template void shuffle(float*, const float*, cudaStream_t);
template void shuffle(double*, const double*, cudaStream_t);

template <class T>
void reduce(T* out, const T* in, cudaStream_t stream) {
  launch(reduce_kernel<T>, 1, 32, 0, stream, out, in);
}
template void reduce(int*, const int*, cudaStream_t);
template void reduce(std::int64_t*, const std::int64_t*, cudaStream_t);
template void reduce(float*, const float*, cudaStream_t);
template void reduce(double*, const double*, cudaStream_t);

void vote(unsigned* out, const int* in, cudaStream_t stream) {
  launch(vote_kernel, 1, 32, 0, stream, out, in);
}
void atomics(const AtomicResults& results, unsigned blocks, cudaStream_t stream) {
  launch(atomics_kernel, blocks, 64, 0, stream, results);
}

template <class T>
void copy_vectors(T* out, const T* in, int n, cudaStream_t stream) {
  const int vectors = n / Vec16<T>::kSize;
  launch(copy_vectors_kernel<T>, blocks_for(vectors, 64), 64, 0, stream, out, in, vectors);
}
template void copy_vectors(bf16*, const bf16*, int, cudaStream_t);
template void copy_vectors(float*, const float*, int, cudaStream_t);
template void copy_vectors(std::int64_t*, const std::int64_t*, int, cudaStream_t);

void mma(float* d, const bf16* a, const bf16* b, const float* c, cudaStream_t stream) {
  launch(mma_kernel, 1, 32, 0, stream, d, a, b, c);
}
void load_matrices(unsigned* out, const std::uint16_t* matrix, cudaStream_t stream) {
  launch(load_matrices_kernel, 1, 32, 0, stream, out, matrix);
}
void copy_pipeline(int* out, const int* in, int tiles, int valid, cudaStream_t stream) {
  launch(copy_pipeline_kernel, 1, 32, 0, stream, reinterpret_cast<int4*>(out),
         reinterpret_cast<const int4*>(in), tiles, valid);
}
void reverse_blocks(int* out, const int* in, int n, cudaStream_t stream) {
  launch(reverse_blocks_kernel, 1, static_cast<unsigned>(n),
         static_cast<std::size_t>(n) * sizeof(int), stream, out, in);
}
void rotate_warp(int* out, const int* in, cudaStream_t stream) {
  launch(rotate_warp_kernel, 1, 32, 0, stream, out, in);
}
void apply(float* out, const float* in, int n, FloatFunction function, cudaStream_t stream) {
  launch(apply_kernel, blocks_for(n, 64), 64, 0, stream, out, in, n, function);
}
void round_all(Rounded* out, const float* floats, const double* doubles, int n,
               cudaStream_t stream) {
  launch(round_kernel, blocks_for(n, 64), 64, 0, stream, out, floats, doubles, n);
}
void bit_functions(Bits* out, const unsigned* in, int n, cudaStream_t stream) {
  launch(bits_kernel, blocks_for(n, 64), 64, 0, stream, out, in, n);
}
void pack(unsigned* out, const float* in, int pairs, cudaStream_t stream) {
  launch(pack_kernel, blocks_for(pairs, 64), 64, 0, stream, out, in, pairs);
}
void positions(Position* out, dim3 grid, dim3 block, cudaStream_t stream) {
  launch(positions_kernel, grid, block, 0, stream, out);
}

}  // namespace demist::cuda::test
