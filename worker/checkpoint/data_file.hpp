// Writes values into datasets that HDF5 has laid out. HDF5 1.10 crashes at exit after a file that
// it could not finish for lack of space, so the bytes that can run out of space go around it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace demist::checkpoint {

// An existing file, open for writing. Every failure throws EnvironmentError naming the path.
class DataFile {
 public:
  explicit DataFile(const std::filesystem::path& path);
  DataFile(const DataFile&) = delete;
  DataFile& operator=(const DataFile&) = delete;
  ~DataFile();
  // Takes the disk blocks of the whole file now, where the file system can: a full disk or a quota
  // is found before anything is written.
  void reserve(std::uint64_t bytes);
  void write_at(std::uint64_t offset, std::span<const std::byte> bytes);
  void sync();

 private:
  [[noreturn]] void fail(const char* verb, std::uint64_t bytes) const;
  std::filesystem::path path_;
  int fd_;
};

}  // namespace demist::checkpoint
