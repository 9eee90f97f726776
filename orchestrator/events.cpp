// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/events.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/log.hpp"
#include "orchestrator/stage_state.hpp"

namespace demist {

void append_event(const std::filesystem::path& run_dir, std::string_view event,
                  const nlohmann::ordered_json& fields) {
  nlohmann::ordered_json line{{"time", unix_seconds()}, {"event", event}};
  if (!fields.empty()) line.update(fields);
  const std::string text = line.dump() + "\n";
  const std::filesystem::path path = run_dir / kEventFile;
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  const bool whole =
      file >= 0 && ::write(file, text.data(), text.size()) == static_cast<::ssize_t>(text.size());
  if (!whole) log::warning(path.string() + ": cannot write: " + std::strerror(errno));
  if (file >= 0) ::close(file);
}

}  // namespace demist
