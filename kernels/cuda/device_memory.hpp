// Memory of one device, and the way in and out of it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>

#include "core/tensor.hpp"
#include "kernels/cuda/runtime.hpp"

namespace demist::cuda {

// Blocks of the current device, 256-byte aligned. Buffers are made before the first step and live
// until the end: there is nothing to pool.
class DeviceMemory final : public Memory {
 public:
  // Blocks are given back when the stream's work so far is done.
  explicit DeviceMemory(const Stream& stream) : stream_(stream) {}
  void* allocate(std::size_t bytes) override;  // throws EnvironmentError naming the sizes
  void release(void* block) noexcept override;
  std::size_t available() const override;

 private:
  const Stream& stream_;
};

// Page-locked host memory: what the device copies from and to without the host's help.
class PinnedMemory final : public Memory {
 public:
  void* allocate(std::size_t bytes) override;
  void release(void* block) noexcept override;
  std::size_t available() const override { return Memory::host().available(); }
  static PinnedMemory& instance();  // for blocks that may outlive a backend
};

// Copies host memory to the device behind the caller's back: bytes are set aside in pinned memory,
// so that neither the caller nor the device's queue has to wait. Longer copies go in pieces.
class Uploader {
 public:
  Uploader();
  void copy(void* to, const void* from, std::size_t bytes, const Stream& stream);

 private:
  static constexpr std::size_t kSlots = 4;
  static constexpr std::size_t kSlotBytes = std::size_t{4} << 20;
  struct Slot {
    Buffer<std::byte> bytes;
    Event copied;  // the device has read the slot
  };

  std::array<Slot, kSlots> slots_;
  std::size_t next_ = 0;
};

// The other way, by way of pinned memory too: the driver would do the same for memory that is not,
// but decides by itself when.
class Downloader {
 public:
  Downloader();
  // Returns when the bytes are there, and all work of the stream is done.
  void copy(void* to, const void* from, std::size_t bytes, const Stream& stream);

 private:
  static constexpr std::size_t kBytes = std::size_t{4} << 20;
  Buffer<std::byte> bytes_;
};

}  // namespace demist::cuda
