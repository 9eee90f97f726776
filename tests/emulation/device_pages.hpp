// Pages that only the device may touch: host code that follows a device pointer faults, as it would
// with a real device.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

namespace demist::emu {

// A block on pages of its own. nullptr: no room.
void* allocate_pages(std::size_t bytes);
void release_pages(void* block, std::size_t bytes);
// Lets everybody touch one block, and no longer, unless the device works.
void open_pages(void* block, std::size_t bytes);
void close_pages(void* block, std::size_t bytes);

// Opens all such pages while it lives: around the device's own work, and the fakes' copies.
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};

}  // namespace demist::emu
