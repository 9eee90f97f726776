// SPDX-License-Identifier: Apache-2.0
#include "tests/emulation/device_pages.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <map>

namespace demist::emu {
namespace {

// Addresses are reserved once, so that one call opens or closes everything.
constexpr std::size_t kReserved = std::size_t{256} << 30;
// Whole huge pages are opened and closed: each is one entry of the page table, and what was closed
// faults only once when it is written again. In small pages that was most of the tests' time.
constexpr std::size_t kHugePage = std::size_t{2} << 20;

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

std::size_t round_up(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

std::size_t whole_pages(std::size_t bytes) {
  return round_up(bytes, static_cast<std::size_t>(sysconf(_SC_PAGESIZE)));
}

char* reserve() {
  void* reserved = mmap(nullptr, kReserved + kHugePage, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return nullptr;
  const auto address = reinterpret_cast<std::uintptr_t>(reserved);
  char* begin = static_cast<char*>(reserved) + (round_up(address, kHugePage) - address);
  madvise(begin, kReserved, MADV_HUGEPAGE);  // a kernel without them is slower, no more
  return begin;
}

// What lies around, too.
void protect(char* block, std::size_t bytes, int protection) {
  const std::size_t before = static_cast<std::size_t>(block - pages().begin) % kHugePage;
  mprotect(block - before, round_up(before + bytes, kHugePage), protection);
}

void protect_all(int protection) {
  if (pages().used > 0) protect(pages().begin, pages().used, protection);
}

}  // namespace

void* allocate_pages(std::size_t bytes) {
  Pages& p = pages();
  const std::size_t size = whole_pages(bytes);
  if (p.begin == nullptr) p.begin = reserve();
  if (p.begin == nullptr) return nullptr;
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
  protect(static_cast<char*>(block), bytes, PROT_READ | PROT_WRITE);
}

void close_pages(void* block, std::size_t bytes) {
  if (pages().open == 0) protect(static_cast<char*>(block), bytes, PROT_NONE);
}

void release_pages(void* block, std::size_t bytes) {
  pages().free.emplace(whole_pages(bytes), block);
}

DeviceAccess::DeviceAccess() {
  if (pages().open++ == 0) protect_all(PROT_READ | PROT_WRITE);
}

DeviceAccess::~DeviceAccess() {
  if (--pages().open == 0) protect_all(PROT_NONE);
}

}  // namespace demist::emu
