// The seal of a JSON file: a last field that holds the checksum of everything before it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

namespace demist {

// `object` is a JSON object's text, "{...}" with at least one field. The result ends
// `,"xxh3":"<32 hex digits>"}` and a newline: the XXH3-128 of all bytes before these 44.
std::string sealed(std::string object);
// The object again; nothing when the seal is absent or a byte differs from what was sealed.
std::optional<std::string> unsealed(const std::string& text);

}  // namespace demist
