// events.jsonl: what happened to a run, one JSON object a line, appended by whoever saw it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string_view>

namespace demist {

inline constexpr const char* kEventFile = "events.jsonl";

// Appends {"time": Unix seconds, "event": event, ...fields} in one write, so that lines of several
// processes do not mix, on a line of its own, whatever a full disk left of the one before. An event
// is never worth a run: what cannot be written is warned of in the log.
void append_event(const std::filesystem::path& run_dir, std::string_view event,
                  const nlohmann::ordered_json& fields);

}  // namespace demist
