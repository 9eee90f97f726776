// SPDX-License-Identifier: Apache-2.0
#include "tests/emulation/device_pages.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <map>

namespace demist::emu {
namespace {

// Addresses are reserved once, so that one call opens or closes everything.
constexpr std::size_t kReserved = std::size_t{256} << 30;

struct Pages {
  char* begin = nullptr;
  std::size_t used = 0;
  std::multimap<std::size_t, void*> free;  // by size: blocks are mostly made again as they were
  int open = 0;                            // nested accesses
};

Pages& pages() {
  static Pages instance;
  return instance;
}

std::size_t whole_pages(std::size_t bytes) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) / page * page;
}

void protect(const Pages& p, int protection) {
  if (p.used > 0) mprotect(p.begin, p.used, protection);
}

}  // namespace

void* allocate_pages(std::size_t bytes) {
  Pages& p = pages();
  const std::size_t size = whole_pages(bytes);
  if (p.begin == nullptr) {
    void* reserved =
        mmap(nullptr, kReserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED) return nullptr;
    p.begin = static_cast<char*>(reserved);
  }
  if (const auto found = p.free.find(size); found != p.free.end()) {
    void* block = found->second;
    p.free.erase(found);
    return block;
  }
  if (size > kReserved - p.used) return nullptr;
  char* block = p.begin + p.used;
  p.used += size;
  return block;
}

void open_pages(void* block, std::size_t bytes) {
  mprotect(block, whole_pages(bytes), PROT_READ | PROT_WRITE);
}

void close_pages(void* block, std::size_t bytes) {
  if (pages().open == 0) mprotect(block, whole_pages(bytes), PROT_NONE);
}

void release_pages(void* block, std::size_t bytes) {
  pages().free.emplace(whole_pages(bytes), block);
}

DeviceAccess::DeviceAccess() {
  if (pages().open++ == 0) protect(pages(), PROT_READ | PROT_WRITE);
}

DeviceAccess::~DeviceAccess() {
  if (--pages().open == 0) protect(pages(), PROT_NONE);
}

}  // namespace demist::emu
