// SPDX-License-Identifier: Apache-2.0
#include "core/append_line.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>

#include "core/file.hpp"

namespace demist {

bool append_line(const fs::path& path, std::string line) {
  const Descriptor file(path, O_RDWR | O_CREAT | O_APPEND);
  if (file.get() < 0) return false;
  line += '\n';
  if (!begins_line(file.get())) line.insert(0, 1, '\n');
  std::string_view rest = line;
  for (int attempt = 0; attempt < 2 && !rest.empty(); ++attempt) {  // one that came short once more
    errno = ENOSPC;  // of a write that comes short nothing is said
    const ssize_t written = ::write(file.get(), rest.data(), rest.size());
    if (written > 0) rest.remove_prefix(static_cast<std::size_t>(written));
  }
  return rest.empty();
}

}  // namespace demist
