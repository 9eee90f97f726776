// SPDX-License-Identifier: Apache-2.0
#include "core/log.hpp"

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <memory>
#include <mutex>

#include "core/error.hpp"

namespace demist::log {
namespace {

struct Close {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
struct Logger {  // the project's one global state
  std::mutex mutex;
  int rank = 0;
  int ranks = 1;
  std::unique_ptr<std::FILE, Close> file;
};
Logger& logger() {
  static Logger instance;
  return instance;
}

constexpr std::array kPrefix = {"", "warning: ", "demist: "};

std::string timestamp() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%FT%TZ", &parts);
  return text.data();
}

}  // namespace

void configure(int rank, int ranks) {
  logger().rank = rank;
  logger().ranks = ranks;
}

void open_file(const std::filesystem::path& path) {
  const std::lock_guard lock(logger().mutex);
  logger().file.reset(std::fopen(path.c_str(), "a"));
  if (!logger().file)
    throw EnvironmentError(path.string() + ": cannot open log: " + std::strerror(errno));
}

void write(Level level, std::string_view message) {
  Logger& log = logger();
  const std::lock_guard lock(log.mutex);
  const char* prefix = kPrefix[static_cast<std::size_t>(level)];
  const int length = static_cast<int>(message.size());
  if (log.rank == 0)
    std::fprintf(stderr, "%s%.*s\n", prefix, length, message.data());
  else if (level == Level::error)
    std::fprintf(stderr, "[rank %d of %d] %s%.*s\n", log.rank, log.ranks, prefix, length,
                 message.data());
  if (log.file) {
    std::fprintf(log.file.get(), "%s %s%.*s\n", timestamp().c_str(), prefix, length,
                 message.data());
    std::fflush(log.file.get());
  }
}

}  // namespace demist::log
