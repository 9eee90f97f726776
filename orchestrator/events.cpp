// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/events.hpp"

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>

#include "core/append_line.hpp"
#include "core/log.hpp"
#include "orchestrator/stage_state.hpp"

namespace demist {

void append_event(const std::filesystem::path& run_dir, std::string_view event,
                  const nlohmann::ordered_json& fields) {
  nlohmann::ordered_json line{{"time", unix_seconds()}, {"event", event}};
  if (!fields.empty()) line.update(fields);
  const std::filesystem::path path = run_dir / kEventFile;
  // Names of files in it may be no UTF-8.
  using nlohmann::ordered_json;
  const std::string text = line.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  if (!append_line(path, text))
    log::warning(path.string() + ": cannot write: " + std::strerror(errno));
}

}  // namespace demist
