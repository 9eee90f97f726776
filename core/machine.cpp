// SPDX-License-Identifier: Apache-2.0
#include "core/machine.hpp"

#include <unistd.h>

#include <array>
#include <cstdlib>

namespace demist {

std::string host_name() {
  std::array<char, 256> name{};
  ::gethostname(name.data(), name.size() - 1);
  return name.data();
}

std::string node_name() {
  const char* const node = std::getenv("SLURMD_NODENAME");
  return node != nullptr && *node != '\0' ? node : host_name();
}

}  // namespace demist
