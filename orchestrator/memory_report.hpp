// What the training stages of a recipe need of memory, and what of its model fits on GPUs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "orchestrator/config.hpp"

namespace demist {

// Lines of Markdown: the plan of rank 0 for each training stage, and the largest micro-batches that
// GPUs of usual sizes hold. Sizes of batches follow from the recipe, not from the data: they are
// what the data can make of it at most.
std::string describe_memory(const RunConfig& run, std::int64_t vocab);

}  // namespace demist
