// Messages and reports as bytes (protobuf, orchestrator/control.proto).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "orchestrator/coordinator.hpp"

namespace demist {

// A plan with the owners of the plan before says only that.
std::string encode(const ControlMessage& message, std::span<const std::int32_t> owner_before = {});
// Throws EnvironmentError.
ControlMessage decode_message(const std::string& bytes,
                              std::span<const std::int32_t> owner_before = {});
std::string encode(const Report& report);
Report decode_report(const std::string& bytes);  // throws EnvironmentError

}  // namespace demist
