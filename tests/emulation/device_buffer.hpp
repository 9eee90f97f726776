// Device memory for tests: filled from and read back to vectors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "tests/emulation/answers.hpp"

namespace demist::cuda::test {

template <class T>
class DeviceBuffer {
 public:
  // NaN or -1 everywhere: host() copies all, also what no kernel wrote.
  explicit DeviceBuffer(std::size_t size) : DeviceBuffer(unwritten(size)) {
    if (size == 0) return;
    EXPECT_EQ(cudaMemset(data_, 0xff, size * sizeof(T)), cudaSuccess);
    settle();
  }
  explicit DeviceBuffer(const std::vector<T>& host) : DeviceBuffer(host.size()) { set(host); }
  // For what is not copied back: a sanitizer tells who reads what nobody wrote.
  static DeviceBuffer unwritten(std::size_t size) {
    DeviceBuffer buffer;
    EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&buffer.data_), size * sizeof(T)), cudaSuccess);
    buffer.size_ = size;
    return buffer;
  }
  ~DeviceBuffer() {
    if (data_ == nullptr) return;  // moved from; cudaFree would wait for all work
    EXPECT_EQ(cudaFree(data_), cudaSuccess);
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) = delete;

  T* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::span<T> span() const { return {data_, size_}; }

  void set(const std::vector<T>& host) {
    EXPECT_EQ(cudaMemcpy(data_, host.data(), size_ * sizeof(T), cudaMemcpyHostToDevice),
              cudaSuccess);
    settle();
  }
  // Waits for all work of the device first.
  std::vector<T> host() const {
    std::vector<T> copy(size_);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(copy.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost),
              cudaSuccess);
    record_answer(std::as_bytes(std::span(copy)));
    return copy;
  }

 private:
  DeviceBuffer() = default;
  // Small copies and fills may be under way when the call returns, and other streams do not wait.
  static void settle() { EXPECT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess); }

  T* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace demist::cuda::test
