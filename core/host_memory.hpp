// How much memory this machine, or the job's share of it, can still give.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>

namespace demist {

// The smallest of what the kernel calls available and what each control group above this process
// leaves (a batch system's limit; page cache counts as free). The largest number where nothing is
// known. `root` stands for "/".
std::size_t available_host_memory(const std::filesystem::path& root = "/");

}  // namespace demist
