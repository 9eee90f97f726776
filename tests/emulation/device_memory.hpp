// Which addresses are device memory, which are pinned host memory.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>

namespace demist::emu {

enum class Place { device, pinned, pageable };

// Where `p` lies; nothing known is pageable host memory.
Place place_of(const void* p);
// Whether all of [p, p + bytes) lies in one allocation of device memory.
bool in_device_memory(const void* p, std::size_t bytes);
// Bytes from `p` to the end of its allocation, 0 outside of all.
std::size_t bytes_after(const void* p);

// The caller holds the device's lock. Fresh memory is poison: NaN as float and as bf16.
cudaError_t allocate(void** p, std::size_t bytes, Place place);
cudaError_t release_memory(void* p, Place place);
cudaError_t pin(void* p, std::size_t bytes);
cudaError_t unpin(void* p);
std::size_t device_bytes_used();
std::size_t device_bytes_total();

}  // namespace demist::emu
