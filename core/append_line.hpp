// Files of lines to which several processes append: events, jobs, bad nodes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

namespace demist {

// Appends a line, whose end it adds, in one write; after a part of one it begins a new line. False,
// with errno, when that fails. What is written by then stays: others may have appended since, so
// nobody can take it back, and readers pass over it.
bool append_line(const std::filesystem::path& path, std::string line);

}  // namespace demist
