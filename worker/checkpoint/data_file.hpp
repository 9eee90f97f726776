// The files of a checkpoint as the disk sees them. HDF5 1.10 crashes at exit after a file that it
// could not finish for lack of space, so HDF5 lays a file out in memory and only this writes it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>

namespace demist::checkpoint {

// A file without a disk, for HDF5 to write tables into: what is left out takes no memory.
class SparseFile {
 public:
  SparseFile();  // throws EnvironmentError
  SparseFile(const SparseFile&) = delete;
  SparseFile& operator=(const SparseFile&) = delete;
  ~SparseFile();

  int descriptor() const { return fd_; }
  std::uint64_t size() const;
  // Calls visit(offset, bytes) for all that was written, in rising order.
  void for_each_part(
      const std::function<void(std::uint64_t, std::span<const std::byte>)>& visit) const;

 private:
  int fd_;
};

// A new file, or one made empty, open for writing and reading back. Every failure throws
// EnvironmentError naming the path.
class DataFile {
 public:
  explicit DataFile(const std::filesystem::path& path);
  DataFile(const DataFile&) = delete;
  DataFile& operator=(const DataFile&) = delete;
  ~DataFile();

  // Gives the file its size, and where the file system can takes all its disk blocks now: a full
  // disk or a quota is found before anything is written.
  void reserve(std::uint64_t bytes);
  // Returns when the bytes are the system's.
  void write_at(std::uint64_t offset, std::span<const std::byte> bytes);
  // Has the disk begin with these bytes: else they would wait in memory until sync(), and the disk
  // with them. Speed only.
  void start(std::uint64_t offset, std::uint64_t count);
  // Returns when the disk has taken these bytes, as far as the system knows; sync() is what makes
  // sure.
  void settle(std::uint64_t offset, std::size_t count);
  // Returns when all bytes are on the disk.
  void sync();
  void read_at(std::uint64_t offset, std::span<std::byte> bytes) const;
  const std::filesystem::path& path() const { return path_; }

 private:
  [[noreturn]] void fail(const char* verb, std::uint64_t bytes) const;
  std::filesystem::path path_;
  int fd_;
};

}  // namespace demist::checkpoint
