// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/events.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>

#include "core/file.hpp"
#include "core/log.hpp"
#include "orchestrator/stage_state.hpp"

namespace demist {
namespace {

// A write that came short is tried once more. What it leaves if that fails too stays: others may
// have appended since, so nobody can take it back; it is no JSON, and readers pass over it.
bool write_line(int file, std::string line) {
  if (!begins_line(file)) line.insert(0, 1, '\n');
  std::string_view rest = line;
  for (int attempt = 0; attempt < 2 && !rest.empty(); ++attempt) {
    errno = ENOSPC;  // of a write that comes short nothing is said
    const ssize_t written = ::write(file, rest.data(), rest.size());
    if (written > 0) rest.remove_prefix(static_cast<std::size_t>(written));
  }
  return rest.empty();
}

}  // namespace

void append_event(const std::filesystem::path& run_dir, std::string_view event,
                  const nlohmann::ordered_json& fields) {
  nlohmann::ordered_json line{{"time", unix_seconds()}, {"event", event}};
  if (!fields.empty()) line.update(fields);
  const std::filesystem::path path = run_dir / kEventFile;
  const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  // Names of files in it may be no UTF-8.
  using nlohmann::ordered_json;
  const std::string text = line.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  if (file < 0 || !write_line(file, text + "\n"))
    log::warning(path.string() + ": cannot write: " + std::strerror(errno));
  if (file >= 0) ::close(file);
}

}  // namespace demist
