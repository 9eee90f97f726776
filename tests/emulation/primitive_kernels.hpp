// Small kernels around one device primitive each, for tests that also run on a real device.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace demist::cuda::test {

// One warp. out[op][lane] = op(in[lane]); T: int, std::int64_t, float, double.
enum ShuffleOp { kIndex5, kXor3, kDown4, kUp2, kWidth8Xor4, kWidth8Index9, kShuffleOps };
template <class T>
void shuffle(T* out, const T* in, cudaStream_t stream);
// One warp. out[0][lane] = the sum of all lanes, out[1][lane] = their maximum.
template <class T>
void reduce(T* out, const T* in, cudaStream_t stream);
// One warp. out[0..2][lane] = ballot, any, all of in[lane] != 0; out[3] = ballot among the lanes of
// its own half, which run apart from the other half.
void vote(unsigned* out, const int* in, cudaStream_t stream);

// `blocks` of 64 threads; every thread adds 1, offers its number to max and min, and lane 0 of each
// warp appends to a ticket by compare-and-swap.
struct AtomicResults {
  int* sum;
  unsigned long long* long_sum;
  int *largest, *smallest;
  unsigned* tickets;
};
void atomics(const AtomicResults& results, unsigned blocks, cudaStream_t stream);

// out = in by 16-byte accesses, n a multiple of 16 bytes; the three kinds of load in turn, the two
// kinds of store in turn. T: bf16, float, std::int64_t.
template <class T>
void copy_vectors(T* out, const T* in, int n, cudaStream_t stream);

// One warp. D = A B + C of row-major A [16,16], B [16,8], C and D [16,8].
void mma(float* d, const __nv_bfloat16* a, const __nv_bfloat16* b, const float* c,
         cudaStream_t stream);
// One warp. `matrix`: 32 x 8 elements of 16 bits, in shared memory in rows of 24 elements. out:
// [4 forms][32 lanes][4 registers]; forms x2, x2.trans, x4, x4.trans, x2's in two registers.
void load_matrices(unsigned* out, const std::uint16_t* matrix, cudaStream_t stream);

// One block of 32 threads copies `tiles` tiles of 32 x 16 bytes through shared memory, two tiles
// ahead; 16-byte pieces from `valid` on become zero without a look at their source.
void copy_pipeline(int* out, const int* in, int tiles, int valid, cudaStream_t stream);

// One block of n threads (n <= 1024): out reversed through static, then dynamic shared memory.
void reverse_blocks(int* out, const int* in, int n, cudaStream_t stream);
// One warp passes values round by __syncwarp: out[lane] = in[(lane + 1) % 32].
void rotate_warp(int* out, const int* in, cudaStream_t stream);

// out[i] = function(in[i]).
enum FloatFunction { kExp2, kExp, kLog, kRsqrt, kDivideBy3, kFloatFunctions };
void apply(float* out, const float* in, int n, FloatFunction function, cudaStream_t stream);
struct Rounded {
  int to_int;
  long long to_long, from_double;
  float narrowed;  // the double, to float
};
void round_all(Rounded* out, const float* floats, const double* doubles, int n,
               cudaStream_t stream);
struct Bits {
  int count, leading, first;
  unsigned high_product;  // with 0x9E3779B9
  unsigned as_float_and_back;
};
void bit_functions(Bits* out, const unsigned* in, int n, cudaStream_t stream);
void pack(unsigned* out, const float* in, int pairs, cudaStream_t stream);

// out[global linear thread] = the thread's and block's indices and sizes.
struct Position {
  uint3 thread, block;
  dim3 block_size, grid_size;
};
void positions(Position* out, dim3 grid, dim3 block, cudaStream_t stream);

}  // namespace demist::cuda::test
