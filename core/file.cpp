// SPDX-License-Identifier: Apache-2.0
#include "core/file.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <thread>
#include <utility>

#include "core/error.hpp"
#include "core/machine.hpp"

namespace demist {
namespace {

std::string reason() { return std::strerror(errno); }

void sync_path(const fs::path& path, int flags) {
  const Descriptor file(path, flags);
  if (file.get() < 0 || ::fsync(file.get()) != 0)
    throw EnvironmentError(path.string() + ": cannot sync to disk: " + reason());
}

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

}  // namespace

Descriptor::Descriptor(const fs::path& path, int flags)
    : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0644)) {}
Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

bool is_wrong_path(int error) {
  return error == ENOENT || error == ENOTDIR || error == EISDIR || error == ENAMETOOLONG ||
         error == ELOOP;
}

bool is_broken_storage(int error) {
  return error == EIO || error == ESTALE || error == ENOTCONN || error == EREMOTEIO;
}

void refuse_unread(const fs::path& path, const std::string& verb, int error) {
  if (error == EISDIR) throw DataError(path.string() + ": is a folder; a file is needed here");
  const std::string what = path.string() + ": cannot " + verb + ": " + std::strerror(error);
  if (is_wrong_path(error)) throw DataError(what + "; name a file that exists and may be read");
  throw UnreadError(what + "; see to its disk, mount or permissions on this machine");
}

std::string read_file(const fs::path& path) {
  const Descriptor file(path, O_RDONLY);
  struct stat info {};
  if (file.get() < 0 || ::fstat(file.get(), &info) != 0) refuse_unread(path, "open", errno);
  constexpr std::size_t least = 4096;
  std::string content(std::max(static_cast<std::size_t>(info.st_size) + 1, least), '\0');
  std::size_t done = 0;
  while (true) {  // a pipe has no size, and a file may grow
    if (done == content.size()) content.resize(2 * done);
    const ssize_t n = ::read(file.get(), content.data() + done, content.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) refuse_unread(path, "read", errno);
    if (n == 0) break;
    done += static_cast<std::size_t>(n);
  }
  content.resize(done);
  return content;
}

void sync_file(const fs::path& path) { sync_path(path, O_RDONLY); }
void sync_folder(const fs::path& path) { sync_path(path, O_RDONLY | O_DIRECTORY); }

void durable_rename(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error)
    throw EnvironmentError("cannot rename " + from.string() + " to " + to.string() + ": " +
                           error.message());
  sync_folder(folder_of(to));
}

void atomic_write(const fs::path& path, std::string_view content) {
  const fs::path temporary = path.string() + "." + std::to_string(::getpid()) + ".tmp";
  {
    const Descriptor file(temporary, O_WRONLY | O_CREAT | O_TRUNC);
    std::size_t done = 0;
    while (file.get() >= 0 && done < content.size()) {
      const ssize_t n = ::write(file.get(), content.data() + done, content.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) break;
      done += static_cast<std::size_t>(n);
    }
    if (file.get() < 0 || done < content.size() || ::fsync(file.get()) != 0) {
      const std::string why = reason();
      ::unlink(temporary.c_str());
      throw EnvironmentError(path.string() + ": cannot write " + format_bytes(content.size()) +
                             ": " + why);
    }
  }
  durable_rename(temporary, path);
}

void update_file(const fs::path& path, std::string_view content) {
  if (!fs::exists(path) || read_file(path) != content) atomic_write(path, content);
}

bool begins_line(int descriptor) {
  const off_t size = ::lseek(descriptor, 0, SEEK_END);
  char last = 0;
  return size == 0 || (size > 0 && ::pread(descriptor, &last, 1, size - 1) == 1 && last == '\n');
}

std::string format_bytes(std::uint64_t bytes) {
  if (bytes < 1000) return std::to_string(bytes) + " bytes";
  static constexpr std::array units = {"kB", "MB", "GB", "TB", "PB", "EB"};
  double value = static_cast<double>(bytes) / 1000;
  std::size_t unit = 0;
  for (; value >= 999.5 && unit + 1 < units.size(); ++unit) value /= 1000;
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.3g %s", value, units[unit]);
  return text.data();
}

std::uint64_t free_bytes(const fs::path& path) {
  std::error_code error;
  const auto space = fs::space(path, error);
  if (error) throw EnvironmentError(path.string() + ": cannot read free space: " + error.message());
  return space.available;
}

FileLock::FileLock(const fs::path& path, double patience_seconds)
    : fd_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
  if (fd_ < 0)
    throw EnvironmentError(path.string() + ": cannot open for writing: " + reason() +
                           "; check the path and its permissions");
  constexpr auto pause = std::chrono::milliseconds(50);
  const auto end =
      std::chrono::steady_clock::now() + std::chrono::duration<double>(patience_seconds);
  while (::flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    if (std::chrono::steady_clock::now() >= end) {
      ::close(fd_);
      throw EnvironmentError(path.string() + ": another process works here (" + read_file(path) +
                             "); wait for it, or end it");
    }
    std::this_thread::sleep_for(pause);
  }
  const std::string holder = host_name() + " process " + std::to_string(::getpid());
  // Only for the message: a full disk does not weaken the lock.
  if (::ftruncate(fd_, 0) == 0) (void)!::pwrite(fd_, holder.data(), holder.size(), 0);
}

FileLock::~FileLock() { ::close(fd_); }

std::optional<LockHolder> lock_holder(const fs::path& path) {
  const Descriptor file(path, O_RDONLY);
  struct stat info {};
  if (file.get() < 0 || ::fstat(file.get(), &info) != 0) return std::nullopt;
  LockHolder holder;
  // A shared lock: those who ask do not see each other, and who takes it waits for a moment.
  holder.holds = ::flock(file.get(), LOCK_SH | LOCK_NB) != 0;
  if (holder.holds && errno != EWOULDBLOCK) return std::nullopt;  // there are no locks here
  holder.since = static_cast<double>(info.st_mtim.tv_sec);
  std::string process;  // the word itself
  std::ifstream(path) >> holder.host >> process >> holder.process;
  if (holder.host.empty()) return std::nullopt;
  return holder;
}

MappedFile::MappedFile(const fs::path& path) {
  const Descriptor file(path, O_RDONLY);
  struct stat info {};
  if (file.get() < 0 || ::fstat(file.get(), &info) != 0) refuse_unread(path, "open", errno);
  if (S_ISDIR(info.st_mode)) refuse_unread(path, "open", EISDIR);
  size_ = static_cast<std::size_t>(info.st_size);
  if (size_ == 0) return;
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.get(), 0);
  if (address == MAP_FAILED) refuse_unread(path, "map", errno);
  data_ = static_cast<const std::byte*>(address);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::prefetch(std::size_t offset, std::size_t count) const {
  if (offset >= size_) return;
  constexpr std::size_t page = 4096;
  const std::size_t begin = offset / page * page;
  const std::size_t end = std::min(offset + count, size_);
  // Advice only; a refusal costs speed, not correctness.
  (void)::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_WILLNEED);
}

}  // namespace demist
