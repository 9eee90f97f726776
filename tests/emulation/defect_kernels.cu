// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/device.hpp"
#include "tests/emulation/defect_kernels.hpp"

namespace demist::cuda::test {
namespace {

constexpr int kThreads = 64;

__device__ int own_index() { return static_cast<int>(threadIdx.x); }

__global__ void rounds_kernel(int* out, const int* in, Defect defect) {
  auto& values = shared<int[kThreads], struct Values>();
  const int i = own_index();
  int value = in[i];
  for (int round = 0; round < 3; ++round) {
    values[i] = value;
    if (defect != Defect::read_before_write) __syncthreads();
    value = values[kThreads - 1 - i];
    if (defect != Defect::overwrite) __syncthreads();
  }
  out[defect == Defect::unordered_write ? i / 2 : i] = value;
}

__global__ void warp_kernel(int* out, const int* in) {
  auto& values = shared<int[kThreads], struct WarpValues>();
  const int i = own_index();
  values[i] = in[i];
  out[i] = values[i ^ 31];
}

struct Tile {
  int4 piece[kThreads / 4];
};

__global__ void copies_kernel(int* out, const int* in, Defect defect) {
  auto& tile = shared<Tile, struct Copied>();
  const int i = own_index();
  const auto fetch = [&](int first) {
    if (i < kThreads / 4) copy_async_16(&tile.piece[i], in + (first + i) % 16 * 4);
    copy_async_commit();
  };
  fetch(0);
  if (defect != Defect::copy_not_awaited) copy_async_wait<0>();
  __syncthreads();
  out[i] = reinterpret_cast<const int*>(tile.piece)[kThreads - 1 - i];
  if (defect == Defect::copy_overtakes_read) fetch(1);
}

__global__ void flow_kernel(int* out, const int* in, Defect defect) {
  const int i = own_index();
  if (defect == Defect::early_exit && i == 40) return;
  if (defect == Defect::divergent_barriers) {
    if (i % 2 == 0)
      __syncthreads();
    else
      __syncthreads();
  }
  if (defect == Defect::lane_outside_mask) __syncwarp(0x0000ffffu);
  int value = in[i];
  if (defect == Defect::mixed_collectives) {
    if (i % 32 < 16)
      value = __shfl_xor_sync(kFullWarp, value, 1);
    else
      value = __shfl_xor_sync(kFullWarp, value, 2);
  }
  __syncthreads();
  out[i] = value;
}

__global__ void partial_warp_kernel(int* out) {
  const unsigned a[4] = {}, b[2] = {};
  float sum[4] = {};
  mma_m16n8k16_bf16(sum, a, b, sum);
  out[own_index()] = static_cast<int>(sum[0]);
}

__global__ void memory_kernel(int* out, const int* in, Defect defect) {
  auto& values = shared<int[kThreads], struct Bounded>();
  const int i = own_index();
  const int shift = defect == Defect::shared_past_end ? 1 : 0;
  values[i + shift] = in[i + (defect == Defect::read_past_end ? 1 : 0)];
  __syncthreads();
  out[i + (defect == Defect::write_past_end ? 1 : 0)] = values[i];
}

__global__ void dynamic_kernel(int* out, const int* in, Defect defect) {
  int* values = dynamic_shared<int>();
  const int i = own_index();
  values[i] = in[i];
  __syncthreads();
  out[i] = values[i + (defect == Defect::dynamic_shared_past_end ? 1 : 0)];
}

__global__ void alignment_kernel(int* out, const int* in, Defect defect) {
  auto& rows = shared<uint4[kThreads + 1], struct Rows>();
  const int i = own_index();
  rows[i] = uint4{};
  if (i == 0) rows[kThreads] = uint4{};
  __syncthreads();
  if (defect == Defect::misaligned_vector) {
    if (i == 3) store_stream_16(out, load_readonly_16(in + 1));
    return;
  }
  unsigned r[4];
  ldmatrix_x4(r, reinterpret_cast<const char*>(&rows[i]) + 2);
  out[i] = static_cast<int>(r[0]);
}

__global__ void greedy_kernel(int* out) {
  auto& first = shared<int[40000], struct First>();
  auto& second = shared<int[40000], struct Second>();
  first[own_index()] = second[own_index()] = 1;
  out[own_index()] = first[own_index()];
}

__global__ void nothing_kernel() {}

}  // namespace

void run_defect(Defect defect, int* out, const int* in, cudaStream_t stream) {
  const std::size_t bytes = kThreads * sizeof(int);
  switch (defect) {
    case Defect::none:
    case Defect::read_before_write:
    case Defect::overwrite:
    case Defect::unordered_write:
      return launch(rounds_kernel, 1, kThreads, 0, stream, out, in, defect);
    case Defect::warp_without_sync:
      return launch(warp_kernel, 1, kThreads, 0, stream, out, in);
    case Defect::copy_not_awaited:
    case Defect::copy_overtakes_read:
      return launch(copies_kernel, 1, kThreads, 0, stream, out, in, defect);
    case Defect::divergent_barriers:
    case Defect::early_exit:
    case Defect::lane_outside_mask:
    case Defect::mixed_collectives:
      return launch(flow_kernel, 1, kThreads, 0, stream, out, in, defect);
    case Defect::partial_warp_mma:
      return launch(partial_warp_kernel, 1, kThreads - 1, 0, stream, out);
    case Defect::read_past_end:
    case Defect::write_past_end:
    case Defect::shared_past_end:
      return launch(memory_kernel, 1, kThreads, 0, stream, out, in, defect);
    case Defect::dynamic_shared_past_end:
      return launch(dynamic_kernel, 1, kThreads, bytes, stream, out, in, defect);
    case Defect::no_dynamic_shared:
      return launch(dynamic_kernel, 1, kThreads, 0, stream, out, in, defect);
    case Defect::misaligned_vector:
    case Defect::unaligned_matrix_row:
      return launch(alignment_kernel, 1, kThreads, 0, stream, out, in, defect);
    case Defect::too_much_shared:
      return launch(greedy_kernel, 1, kThreads, 0, stream, out);
  }
}

void run_nothing(dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream) {
  launch(nothing_kernel, grid, block, shared_bytes, stream);
}

}  // namespace demist::cuda::test
