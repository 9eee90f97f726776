// Messages for people: one line each, to stderr from rank 0 and to this rank's log file when set.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace demist::log {

enum class Level { info, warning, error };

// Called once by main. Rank > 0 writes to stderr only errors; every rank writes all to its file.
void configure(int rank, int ranks);
void open_file(const std::filesystem::path& path);  // appends; throws EnvironmentError

void write(Level level, std::string_view message);
inline void info(std::string_view message) { write(Level::info, message); }
inline void warning(std::string_view message) { write(Level::warning, message); }
inline void error(std::string_view message) { write(Level::error, message); }

}  // namespace demist::log
