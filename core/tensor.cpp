// SPDX-License-Identifier: Apache-2.0
#include "core/tensor.hpp"

#include <cstdlib>
#include <new>

#include "core/host_memory.hpp"

namespace demist {
namespace {

class HostMemory final : public Memory {
 public:
  void* allocate(std::size_t bytes) override {
    void* block = std::aligned_alloc(kAlign, (bytes + kAlign - 1) / kAlign * kAlign);
    if (block == nullptr) throw std::bad_alloc();
    return block;
  }
  void release(void* block) noexcept override { std::free(block); }
  std::size_t available() const override { return available_host_memory(); }

 private:
  static constexpr std::size_t kAlign = 64;
};

}  // namespace

Memory& Memory::host() {
  static HostMemory memory;
  return memory;
}

}  // namespace demist
