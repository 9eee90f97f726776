// SPDX-License-Identifier: Apache-2.0
#include "tests/emulation/device_memory.hpp"

#include <cstdlib>
#include <cstring>
#include <map>

#include "tests/emulation/device_pages.hpp"
#include "tests/emulation/sanitizers.hpp"
#include "tests/emulation/streams.hpp"

namespace demist::emu {
namespace {

constexpr std::size_t kDeviceBytes = std::size_t{4} << 30;
constexpr std::size_t kAlignment = 256;  // what cudaMalloc promises

struct Allocation {
  std::size_t bytes;
  Place place;
  bool ours;  // else the host's, pinned later
};

std::map<const char*, Allocation>& allocations() {
  static std::map<const char*, Allocation> instance;
  return instance;
}
std::size_t used = 0;

using Entry = std::map<const char*, Allocation>::iterator;

Entry find(const void* p) {
  const char* address = static_cast<const char*>(p);
  auto& all = allocations();
  auto next = all.upper_bound(address);
  if (next == all.begin()) return all.end();
  --next;
  return address < next->first + next->second.bytes ? next : all.end();
}

}  // namespace

Place place_of(const void* p) {
  const Entry entry = find(p);
  return entry == allocations().end() ? Place::pageable : entry->second.place;
}

std::size_t bytes_after(const void* p) {
  const Entry entry = find(p);
  if (entry == allocations().end()) return 0;
  return static_cast<std::size_t>(entry->first + entry->second.bytes - static_cast<const char*>(p));
}

bool in_device_memory(const void* p, std::size_t bytes) {
  return place_of(p) == Place::device && bytes <= bytes_after(p);
}

cudaError_t allocate(void** p, std::size_t bytes, Place place) {
  *p = nullptr;
  if (bytes == 0) return cudaSuccess;
  if (place == Place::device && bytes > kDeviceBytes - used) return cudaErrorMemoryAllocation;
  // AddressSanitizer sees an access past the end of a block of the heap, so there blocks have not a
  // byte more than asked for. Else device memory is closed to the host.
  const bool paged = place == Place::device && !asan_is_on();
  if (paged)
    *p = allocate_pages(bytes);
  else if (posix_memalign(p, kAlignment, bytes) != 0)
    *p = nullptr;
  if (*p == nullptr) return cudaErrorMemoryAllocation;
  if (paged) open_pages(*p, bytes);
  std::memset(*p, 0xff, bytes);
  if (paged) close_pages(*p, bytes);
  allocations()[static_cast<const char*>(*p)] = {bytes, place, true};
  if (place == Place::device) used += bytes;
  return cudaSuccess;
}

cudaError_t release_memory(void* p, Place place) {
  if (p == nullptr) return cudaSuccess;
  const auto entry = allocations().find(static_cast<const char*>(p));
  if (entry == allocations().end() || entry->second.place != place || !entry->second.ours)
    return complain(cudaErrorInvalidValue, "freeing memory that is not allocated, or not there");
  if (place == Place::device) used -= entry->second.bytes;
  const bool paged = place == Place::device && !asan_is_on();
  const std::size_t bytes = entry->second.bytes;
  if (paged) open_pages(p, bytes);
  std::memset(p, 0xff, bytes);  // whoever still reads it gets NaN
  allocations().erase(entry);
  if (paged) close_pages(p, bytes);
  if (paged)
    release_pages(p, bytes);
  else
    std::free(p);
  return cudaSuccess;
}

cudaError_t pin(void* p, std::size_t bytes) {
  if (p == nullptr || bytes == 0 || find(p) != allocations().end())
    return complain(cudaErrorInvalidValue, "cudaHostRegister of this memory");
  allocations()[static_cast<const char*>(p)] = {bytes, Place::pinned, false};
  return cudaSuccess;
}

cudaError_t unpin(void* p) {
  const auto entry = allocations().find(static_cast<const char*>(p));
  if (entry == allocations().end() || entry->second.ours)
    return complain(cudaErrorHostMemoryNotRegistered, "cudaHostUnregister of this memory");
  allocations().erase(entry);
  return cudaSuccess;
}

std::size_t device_bytes_used() { return used; }
std::size_t device_bytes_total() { return kDeviceBytes; }

}  // namespace demist::emu
