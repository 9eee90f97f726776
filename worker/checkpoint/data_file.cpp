// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/data_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "core/file.hpp"

namespace demist::checkpoint {
namespace {

[[noreturn]] void fail_in_memory(const char* verb) {
  throw EnvironmentError(
      std::string("cannot ") + verb +
      " a file in memory for the tables of a checkpoint: " + std::strerror(errno));
}

}  // namespace

SparseFile::SparseFile() : fd_(::memfd_create("demist-checkpoint", MFD_CLOEXEC)) {
  if (fd_ < 0) fail_in_memory("make");
}

SparseFile::~SparseFile() { ::close(fd_); }

std::uint64_t SparseFile::size() const {
  const off_t end = ::lseek(fd_, 0, SEEK_END);
  if (end < 0) fail_in_memory("measure");
  return static_cast<std::uint64_t>(end);
}

void SparseFile::for_each_part(
    const std::function<void(std::uint64_t, std::span<const std::byte>)>& visit) const {
  std::vector<std::byte> bytes;
  off_t end = 0;
  for (;;) {
    const off_t begin = ::lseek(fd_, end, SEEK_DATA);
    if (begin < 0 && errno == ENXIO) return;  // a hole until the end
    end = begin < 0 ? begin : ::lseek(fd_, begin, SEEK_HOLE);
    if (begin < 0 || end < 0) fail_in_memory("search");
    bytes.resize(static_cast<std::size_t>(end - begin));
    if (::pread(fd_, bytes.data(), bytes.size(), begin) != end - begin) fail_in_memory("read");
    visit(static_cast<std::uint64_t>(begin), bytes);
  }
}

DataFile::DataFile(const std::filesystem::path& path)
    : path_(path), fd_(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
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
  if (::fallocate(fd_, 0, 0, static_cast<off_t>(bytes)) == 0) return;
  const bool unsupported = errno == EOPNOTSUPP || errno == ENOSYS;
  if (!unsupported || ::ftruncate(fd_, static_cast<off_t>(bytes)) != 0) fail("reserve", bytes);
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

void DataFile::start(std::uint64_t offset, std::uint64_t count) {
  (void)::sync_file_range(fd_, static_cast<off_t>(offset), static_cast<off_t>(count),
                          SYNC_FILE_RANGE_WRITE);
}

// Whoever waits is told of an error of the disk, once: sync() would not hear of it again.
void DataFile::settle(std::uint64_t offset, std::size_t count) {
  constexpr unsigned wait =
      SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
  if (::sync_file_range(fd_, static_cast<off_t>(offset), static_cast<off_t>(count), wait) == 0)
    return;
  const bool unsupported = errno == ENOSYS || errno == EINVAL || errno == ESPIPE;
  if (!unsupported) fail("write", count);
}

void DataFile::sync() {
  if (::fsync(fd_) != 0) fail("sync", 0);
}

void DataFile::read_at(std::uint64_t offset, std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t n = ::pread(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n == 0) errno = EIO;  // shorter than it was written
    if (n <= 0) fail("read back", bytes.size());
    offset += static_cast<std::uint64_t>(n);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

}  // namespace demist::checkpoint
