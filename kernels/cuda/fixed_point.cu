// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "kernels/cuda/row_kernels.hpp"
#include "kernels/cuda/row_launch.hpp"

namespace demist::cuda {
namespace {

// Every result here has the CPU's bits: the exact reduction of gradients rests on that. Bytes an
// element, and what they cost for the 278 M parameters of the base model at 3.35 TB/s:
// fixed_point_add 20 (1.7 ms), fixed_point_to_float 12 (1.0 ms), fixed_point_round 8 (0.7 ms),
// max_abs 4 (0.3 ms).

constexpr int kThreads = 256;

// round(value * scale), ties to even. What does not fit becomes the smallest integer, as on the CPU
// (the device's own conversion saturates, and turns NaN into the same). The product with a power of
// two is exact.
__device__ __forceinline__ std::int64_t fixed(float value, double scale) {
  const double x = static_cast<double>(value) * scale;
  return fabs(x) < 0x1p63 ? __double2ll_rn(x) : INT64_MIN;
}

// Rounds once to fp32; the power of two rounds again only where the result is denormal.
__device__ __forceinline__ float floating(std::int64_t acc, double inverse) {
  return static_cast<float>(static_cast<double>(static_cast<float>(acc)) * inverse);
}

struct Integers {
  std::int64_t v[kChunk];
};
template <Access kAccess>
__device__ __forceinline__ Integers load_integers(const std::int64_t* p, std::int64_t first,
                                                  std::int64_t size) {
  Integers x;
  if (is_whole<kAccess>(first, size))
    for (int i = 0; i < kChunk; i += 2) {
      const Vec16<std::int64_t> pair = load_16(p + first + i);
      x.v[i] = pair[0];
      x.v[i + 1] = pair[1];
    }
  else
    for (int i = 0; i < kChunk; ++i) x.v[i] = first + i < size ? p[first + i] : 0;
  return x;
}
template <Access kAccess>
__device__ __forceinline__ void store_integers(std::int64_t* p, std::int64_t first,
                                               std::int64_t size, const Integers& x) {
  if (is_whole<kAccess>(first, size))
    for (int i = 0; i < kChunk; i += 2)
      store_16(p + first + i, Vec16<std::int64_t>{{x.v[i], x.v[i + 1]}});
  else
    for (int i = 0; i < kChunk; ++i)
      if (first + i < size) p[first + i] = x.v[i];
}

// |x| as bits, which are ordered as the numbers are. Not finite: the bits of a NaN, above all.
__device__ __forceinline__ std::uint32_t magnitude(float x) {
  constexpr std::uint32_t kInfinity = 0x7f800000u, kNan = 0x7fc00000u;
  const std::uint32_t bits = __float_as_uint(x) & 0x7fffffffu;
  return bits >= kInfinity ? kNan : bits;
}

// The largest of all threads' values; valid in thread 0.
__device__ __forceinline__ std::uint32_t block_largest(std::uint32_t largest) {
  auto& warp_largest = shared<std::uint32_t[kThreads / kWarpSize], struct WarpLargest>();
  largest = warp_max(largest);
  if (threadIdx.x % kWarpSize == 0) warp_largest[threadIdx.x / kWarpSize] = largest;
  __syncthreads();
  if (threadIdx.x > 0) return 0;
  for (const std::uint32_t other : warp_largest) largest = std::max(largest, other);
  return largest;
}

// The elements of a block's piece, a chunk a thread: body(first element, how many are left).
template <class Body>
__device__ __forceinline__ void for_chunks(const ScaledPiece& piece, Body&& body) {
  for (std::int64_t first = threadIdx.x * kChunk; first < piece.count; first += kThreads * kChunk)
    body(first);
}

template <Access kAccess>
__global__ __launch_bounds__(kThreads) void add_kernel(std::int64_t* acc, float* largest,
                                                       const float* grad, const ScaledPiece* pieces,
                                                       const double* scales) {
  const ScaledPiece piece = pieces[blockIdx.x];
  const double scale = scales[piece.tensor];
  std::uint32_t most = 0;
  for_chunks(piece, [&](std::int64_t first) {
    const Chunk g = load_chunk<kAccess>(grad + piece.begin, first, piece.count);
    for (int i = 0; i < kChunk; ++i) most = std::max(most, magnitude(g[i]));
    if (acc == nullptr) return;
    Integers sum = load_integers<kAccess>(acc + piece.begin, first, piece.count);
    for (int i = 0; i < kChunk; ++i) {  // wraps around, as the CPU's integers do
      const auto added =
          static_cast<std::uint64_t>(sum.v[i]) + static_cast<std::uint64_t>(fixed(g[i], scale));
      sum.v[i] = static_cast<std::int64_t>(added);
    }
    store_integers<kAccess>(acc + piece.begin, first, piece.count, sum);
  });
  most = block_largest(most);
  if (threadIdx.x > 0) return;
  largest[blockIdx.x] = __uint_as_float(std::max(most, magnitude(largest[blockIdx.x])));
}

template <Access kAccess>
__global__ __launch_bounds__(kThreads) void to_float_kernel(float* out, const std::int64_t* acc,
                                                            const ScaledPiece* pieces,
                                                            const double* scales) {
  const ScaledPiece piece = pieces[blockIdx.x];
  const double inverse = 1 / scales[piece.tensor];
  for_chunks(piece, [&](std::int64_t first) {
    const Integers sum = load_integers<kAccess>(acc + piece.begin, first, piece.count);
    Chunk x;
    for (int i = 0; i < kChunk; ++i) x[i] = floating(sum.v[i], inverse);
    store_chunk<kAccess>(out + piece.begin, first, piece.count, x);
  });
}

template <Access kAccess>
__global__ __launch_bounds__(kThreads) void round_kernel(float* out, const float* grad,
                                                         const ScaledPiece* pieces,
                                                         const double* scales) {
  const ScaledPiece piece = pieces[blockIdx.x];
  const double scale = scales[piece.tensor], inverse = 1 / scale;
  for_chunks(piece, [&](std::int64_t first) {
    Chunk x = load_chunk<kAccess>(grad + piece.begin, first, piece.count);
    for (int i = 0; i < kChunk; ++i) x[i] = floating(fixed(x[i], scale), inverse);
    store_chunk<kAccess>(out + piece.begin, first, piece.count, x);
  });
}

constexpr std::int64_t kMaxAbsPiece = 8 * kThreads * kChunk;  // elements a block, at least

std::int64_t max_abs_piece(std::int64_t size) {
  return round_up(std::max(ceil_div(size, kMaxAbsPieces), kMaxAbsPiece), kMaxAbsPiece);
}

// out[b] = the largest magnitude of piece b, of `previous` too where it is given.
template <Access kAccess>
__global__ __launch_bounds__(kThreads) void max_abs_kernel(float* out, const float* values,
                                                           std::int64_t size, std::int64_t piece,
                                                           const float* previous) {
  const std::int64_t begin = blockIdx.x * piece;
  const std::int64_t end = begin + piece < size ? begin + piece : size;
  std::uint32_t largest = previous ? magnitude(*previous) : 0;
  for (std::int64_t first = begin + threadIdx.x * kChunk; first < end; first += kThreads * kChunk) {
    const Chunk x = load_chunk<kAccess>(values, first, end);
    for (int i = 0; i < kChunk; ++i) largest = std::max(largest, magnitude(x[i]));
  }
  largest = block_largest(largest);
  if (threadIdx.x == 0) out[blockIdx.x] = __uint_as_float(largest);
}

// One block a piece.
template <class Kernel>
void for_pieces(const ScaledPieces& pieces, bool aligned, Kernel&& kernel) {
  if (pieces.pieces.empty()) return;
  with_access<Access::tail>(pieces.aligned && aligned, kernel);
}
dim3 grid_of(const ScaledPieces& pieces) { return blocks(std::ssize(pieces.pieces)); }

}  // namespace

void fixed_point_add(const Launch& launch, std::span<std::int64_t> acc, std::span<float> largest,
                     std::span<const float> grad, const ScaledPieces& pieces) {
  for_pieces(pieces, all_aligned(acc, grad), [&]<Access kAccess>() {
    cuda::launch(add_kernel<kAccess>, grid_of(pieces), dim3(kThreads), 0, launch.stream, acc.data(),
                 largest.data(), grad.data(), pieces.pieces.data(), pieces.scale.data());
  });
}

void fixed_point_to_float(const Launch& launch, std::span<float> out,
                          std::span<const std::int64_t> acc, const ScaledPieces& pieces) {
  for_pieces(pieces, all_aligned(out, acc), [&]<Access kAccess>() {
    cuda::launch(to_float_kernel<kAccess>, grid_of(pieces), dim3(kThreads), 0, launch.stream,
                 out.data(), acc.data(), pieces.pieces.data(), pieces.scale.data());
  });
}

void fixed_point_round(const Launch& launch, std::span<float> out, std::span<const float> grad,
                       const ScaledPieces& pieces) {
  for_pieces(pieces, all_aligned(out, grad), [&]<Access kAccess>() {
    cuda::launch(round_kernel<kAccess>, grid_of(pieces), dim3(kThreads), 0, launch.stream,
                 out.data(), grad.data(), pieces.pieces.data(), pieces.scale.data());
  });
}

std::size_t max_abs_workspace(std::int64_t size) {
  return static_cast<std::size_t>(ceil_div(size, max_abs_piece(size))) * sizeof(float);
}

// In two rounds: the largest of each piece, then of those and of what largest held.
void max_abs(const Launch& launch, std::span<float> largest, std::span<const float> values) {
  if (values.empty()) return;
  const auto size = static_cast<std::int64_t>(values.size());
  const std::int64_t piece = max_abs_piece(size), pieces = ceil_div(size, piece);
  float* partial = launch.scratch<float>(pieces);
  with_access<Access::tail>(is_aligned(values), [&]<Access kAccess>() {
    cuda::launch(max_abs_kernel<kAccess>, blocks(pieces), dim3(kThreads), 0, launch.stream, partial,
                 values.data(), size, piece, nullptr);
  });
  cuda::launch(max_abs_kernel<Access::tail>, blocks(1), dim3(kThreads), 0, launch.stream,
               largest.data(), partial, pieces, pieces, largest.data());
}

}  // namespace demist::cuda
