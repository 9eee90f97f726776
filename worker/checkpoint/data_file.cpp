// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/data_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "core/error.hpp"
#include "core/file.hpp"

namespace demist::checkpoint {

DataFile::DataFile(const std::filesystem::path& path)
    : path_(path), fd_(::open(path.c_str(), O_WRONLY | O_CLOEXEC)) {
  if (fd_ < 0) fail("open", 0);
}

DataFile::~DataFile() {
  if (fd_ >= 0) ::close(fd_);
}

void DataFile::fail(const char* verb, std::uint64_t bytes) const {
  const std::string why = std::strerror(errno);
  std::string what = verb;
  if (bytes > 0) what.append(" ").append(format_bytes(bytes));
  throw EnvironmentError(path_.string() + ": cannot " + what + ": " + why);
}

void DataFile::reserve(std::uint64_t bytes) {
  if (bytes == 0) return;
  // Not posix_fallocate: where the file system cannot, that would write every block.
  if (::fallocate(fd_, 0, 0, static_cast<off_t>(bytes)) != 0 && errno != EOPNOTSUPP &&
      errno != ENOSYS)
    fail("reserve", bytes);
}

void DataFile::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail("write", bytes.size());
    offset += static_cast<std::uint64_t>(n);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

void DataFile::sync() {
  if (::fsync(fd_) != 0) fail("sync", 0);
}

}  // namespace demist::checkpoint
