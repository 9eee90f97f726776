// A checkpoint in a few lines for people, as `demist inspect` prints it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "worker/checkpoint/checkpoint.hpp"

namespace demist::checkpoint {

std::string describe(const Checkpoint& checkpoint);

}  // namespace demist::checkpoint
