// The emulated device: every CUDA thread of a block is a fiber, blocks run one after another.
// Kernels reach it through kernels/cuda/device.hpp, tests through the CUDA runtime's C interface.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <new>
#include <source_location>
#include <stdexcept>
#include <string>

namespace demist::emu {

using Location = std::source_location;

// A kernel's fault. Whoever runs the stream turns it into cudaErrorLaunchFailure, as a device does.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Options {
  // 0: threads in index order, streams at the last moment. Else random orders of both.
  std::uint64_t seed = 0;
  std::size_t shared_limit = 227 * 1024;  // bytes a block
  double patience_s = 60;                 // how long to wait for another process
  // The algorithm of a product, by its place in a search, beside which all others look slow.
  std::uint32_t fastest_algorithm = 0;
};
// From DEMIST_EMULATION_SEED, DEMIST_EMULATION_PATIENCE and DEMIST_EMULATION_FASTEST.
Options& options();

struct Launch {
  dim3 grid;
  dim3 block;
  std::size_t shared_bytes = 0;
  Location where;
};

// Queues the kernel, or says why a device would refuse it.
cudaError_t launch(const Launch& launch, cudaStream_t stream, std::function<void()> kernel);
// Runs it now. Throws Fault.
void run_grid(const Launch& launch, const std::function<void()>& kernel);

// What kernels call, by way of emulated_device.hpp.
int lane();
void barrier(Location where);
void* dynamic_shared();
int register_shared(void* data, std::size_t bytes);
void use_shared(int id);
void copy_async(void* to, const void* from, std::size_t bytes, bool valid, Location where);
void copy_commit();
void copy_wait(int groups_left);
[[noreturn]] void fail(const std::string& what);
std::string place_of(const Location& where);

// An operation of a warp. Each lane posts pointers into its own stack; the last lane of `mask` to
// arrive runs `combine` for all (index = lane, lanes outside the mask are null).
using Combine = void (*)(void* const in[32], void* const out[32], unsigned mask);
enum class Memory { unordered, ordered };  // only __syncwarp orders memory, shuffles do not
struct Operation {
  const char* name = "";
  unsigned mask = 0;
  Combine combine = nullptr;
  Memory memory = Memory::unordered;
  Location where;
};
void collective(const Operation& operation, void* in, void* out);

// Shared memory of static size: one heap object per type and tag, poisoned before every block.
template <class T>
struct SharedObject {
  static constexpr std::align_val_t kAlignment{alignof(T) < 16 ? 16 : alignof(T)};
  T* data = static_cast<T*>(::operator new(sizeof(T), kAlignment));
  int id = register_shared(data, sizeof(T));
};

}  // namespace demist::emu
