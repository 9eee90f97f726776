// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/device_memory.hpp"

#include <algorithm>
#include <cstring>
#include <string>

namespace demist::cuda {

void* DeviceMemory::allocate(std::size_t bytes) {
  void* block = nullptr;
  const cudaError_t error = cudaMalloc(&block, bytes);
  if (error == cudaSuccess) return block;
  if (error != cudaErrorMemoryAllocation) check(error, "device memory");
  cudaGetLastError();  // reported below
  std::size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  const auto mib = [](std::size_t size) { return std::to_string(size >> 20) + " MiB"; };
  throw EnvironmentError("out of GPU memory: " + mib(bytes) + " wanted, " + mib(free) + " of " +
                         mib(total) +
                         " free; lower batch.max_tokens, raise parallel.tensor, or use more ranks");
}

std::size_t DeviceMemory::available() const {
  std::size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "free device memory");
  return free;
}

void DeviceMemory::release(void* block) noexcept {
  cudaStreamSynchronize(stream_.get());
  cudaFree(block);
}

void* PinnedMemory::allocate(std::size_t bytes) {
  void* block = nullptr;
  check(cudaMallocHost(&block, bytes), "page-locked host memory");
  return block;
}

void PinnedMemory::release(void* block) noexcept { cudaFreeHost(block); }

PinnedMemory& PinnedMemory::instance() {
  static PinnedMemory memory;
  return memory;
}

Uploader::Uploader() {
  for (Slot& slot : slots_) slot.bytes = Buffer<std::byte>(kSlotBytes, PinnedMemory::instance());
}

void Uploader::copy(void* to, const void* from, std::size_t bytes, const Stream& stream) {
  for (std::size_t at = 0; at < bytes; at += kSlotBytes) {
    const std::size_t count = std::min(kSlotBytes, bytes - at);
    Slot& slot = slots_[next_];
    next_ = (next_ + 1) % kSlots;
    slot.copied.wait();
    std::memcpy(slot.bytes.data(), static_cast<const std::byte*>(from) + at, count);
    check(cudaMemcpyAsync(static_cast<std::byte*>(to) + at, slot.bytes.data(), count,
                          cudaMemcpyHostToDevice, stream.get()),
          "copy to the device");
    slot.copied.record(stream);
  }
}

Downloader::Downloader() : bytes_(kBytes, PinnedMemory::instance()) {}

void Downloader::copy(void* to, const void* from, std::size_t bytes, const Stream& stream) {
  std::size_t at = 0;
  do {
    const std::size_t count = std::min(kBytes, bytes - at);
    if (count > 0)
      check(cudaMemcpyAsync(bytes_.data(), static_cast<const std::byte*>(from) + at, count,
                            cudaMemcpyDeviceToHost, stream.get()),
            "copy from the device");
    stream.wait();
    if (count > 0) std::memcpy(static_cast<std::byte*>(to) + at, bytes_.data(), count);
    at += count;
  } while (at < bytes);
}

}  // namespace demist::cuda
