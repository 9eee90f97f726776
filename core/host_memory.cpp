// SPDX-License-Identifier: Apache-2.0
#include "core/host_memory.hpp"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

namespace demist {
namespace {

namespace fs = std::filesystem;

// The number that follows `key` in a file of "key number" lines; without a key, the file's first
// word. Nothing where there is no number ("max").
std::optional<std::size_t> number_in(const fs::path& file, const std::string& key = "") {
  std::ifstream in(file);
  std::string word;
  while (!key.empty() && in >> word && word != key) {
  }
  std::size_t value = 0;
  if (in >> value) return value;
  return std::nullopt;
}

struct GroupFiles {
  const char *limit, *used, *reclaimable;
};
constexpr GroupFiles kVersion2{"memory.max", "memory.current", "inactive_file"};
constexpr GroupFiles kVersion1{"memory.limit_in_bytes", "memory.usage_in_bytes",
                               "total_inactive_file"};

std::size_t left_in_group(const fs::path& group, const GroupFiles& files) {
  const auto limit = number_in(group / files.limit), used = number_in(group / files.used);
  if (!limit || !used) return std::numeric_limits<std::size_t>::max();
  const std::size_t cache = number_in(group / "memory.stat", files.reclaimable).value_or(0);
  const std::size_t held = *used - std::min(*used, cache);
  return *limit - std::min(*limit, held);
}

// Of the group and all above it, up to the mount point.
std::size_t left_in_groups(const fs::path& mount, const std::string& group,
                           const GroupFiles& files) {
  std::size_t left = left_in_group(mount, files);
  fs::path at = mount;
  for (const fs::path& part : fs::path(group).relative_path())
    left = std::min(left, left_in_group(at /= part, files));
  return left;
}

}  // namespace

std::size_t available_host_memory(const fs::path& root) {
  std::size_t left = std::numeric_limits<std::size_t>::max();
  if (const auto kib = number_in(root / "proc/meminfo", "MemAvailable:")) left = *kib * 1024;
  // Lines "0::/path" (version 2) and "9:cpu,memory:/path" (version 1).
  std::ifstream groups(root / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string group = line.substr(second + 1);
    const fs::path mount = root / "sys/fs/cgroup";
    if (controllers.empty()) left = std::min(left, left_in_groups(mount, group, kVersion2));
    if (controllers.find("memory") != std::string::npos)
      left = std::min(left, left_in_groups(mount / "memory", group, kVersion1));
  }
  return left;
}

}  // namespace demist
