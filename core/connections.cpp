// SPDX-License-Identifier: Apache-2.0
#include "core/connections.hpp"

#include <algorithm>

namespace demist {

void Connections::add(Connection& connection) {
  const std::lock_guard lock(mutex_);
  all_.push_back(&connection);
}

void Connections::remove(Connection& connection) {
  const std::lock_guard lock(mutex_);
  std::erase(all_, &connection);
}

std::string Connections::trouble() {
  const std::lock_guard lock(mutex_);
  for (Connection* connection : all_)
    if (std::string found = connection->trouble(); !found.empty()) return found;
  return {};
}

void Connections::abort() {
  const std::lock_guard lock(mutex_);
  for (Connection* connection : all_) connection->abort();
}

}  // namespace demist
