// Files that are whole or absent: atomic writes, durable renames, locks, read-only maps.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace demist {

namespace fs = std::filesystem;

// An open file, closed with the object. get() < 0: it could not be opened, and errno says why.
class Descriptor {
 public:
  Descriptor(const fs::path& path, int flags);
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor();
  int get() const { return fd_; }

 private:
  int fd_;
};

// Whether an errno says that a path is wrong, wherever it is looked at: there is no such file, or
// it is a folder.
bool is_wrong_path(int error);
// Whether it says that a disk or a mount of this machine fails.
bool is_broken_storage(int error);
// "<path>: cannot <verb>: <reason>; <way out>": DataError for a wrong path, else UnreadError.
[[noreturn]] void refuse_unread(const fs::path& path, const std::string& verb, int error);

// Whole file as bytes. Throws as refuse_unread does.
std::string read_file(const fs::path& path);

// Writes to a temporary file beside `path`, syncs it, renames it over `path`, syncs the folder:
// a reader sees the old content or the new, never a part. Throws EnvironmentError.
void atomic_write(const fs::path& path, std::string_view content);
// The same, but a file that has this content already is left alone: no full disk is in its way.
void update_file(const fs::path& path, std::string_view content);

// Whether what is appended to an open file begins a line: it is empty, or its last byte is "\n". A
// full disk or a crash can leave a part of a line, which the next one must not become a part of.
// False where it cannot be read.
bool begins_line(int descriptor);

void sync_file(const fs::path& path);                           // fsync a closed file
void sync_folder(const fs::path& path);                         // fsync a directory entry list
void durable_rename(const fs::path& from, const fs::path& to);  // rename, then sync both folders

std::string format_bytes(std::uint64_t bytes);  // "512 bytes", "3.4 kB", "1.25 GB": powers of 1,000

// Bytes that an unprivileged writer may still use on the file system that holds `path`.
std::uint64_t free_bytes(const fs::path& path);

// An exclusive lock on `path`, made when absent, that ends with the object or, however it ends,
// with the process. Waits `patience_seconds` for a holder that is just going. Throws
// EnvironmentError naming the holder (host and process). A file system without locks grants every
// one.
class FileLock {
 public:
  FileLock(const fs::path& path, double patience_seconds);
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  ~FileLock();

 private:
  int fd_ = -1;
};

// Who took a FileLock on `path` last, and whether it is held now. Waits for nobody.
struct LockHolder {
  bool holds = false;
  double since = 0;  // Unix seconds: when it was taken
  std::string host;
  int process = 0;
};
// Nothing when it never was, or when that cannot be told.
std::optional<LockHolder> lock_holder(const fs::path& path);

// A read-only mapping of a whole file. Plain mmap: MADV_SEQUENTIAL made cold reads 50x slower.
class MappedFile {
 public:
  explicit MappedFile(const fs::path& path);  // throws as refuse_unread does
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile other) noexcept;
  ~MappedFile();
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  // Asks the kernel to read [offset, offset + count) ahead; returns at once.
  void prefetch(std::size_t offset, std::size_t count) const;

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace demist
