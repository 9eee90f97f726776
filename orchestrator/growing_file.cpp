// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/growing_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "core/file.hpp"

namespace demist {
namespace {

constexpr std::size_t kMark = 256;  // bytes

// REQUIRES: it has just been opened.
bool is_there(const std::filesystem::path& path, const Descriptor& file) {
  if (file.get() < 0 && errno != ENOENT) refuse_unread(path, "open", errno);
  return file.get() >= 0;
}

struct stat size_and_place(const std::filesystem::path& path, const Descriptor& file) {
  struct stat now {};
  if (::fstat(file.get(), &now) != 0) refuse_unread(path, "read", errno);
  return now;
}

// As many bytes as there are, up to `count`.
void read_bytes(const std::filesystem::path& path, const Descriptor& file, std::string& bytes,
                std::size_t count, std::int64_t offset) {
  bytes.resize(count);
  std::size_t got = 0;
  while (got < count) {
    const ssize_t more = ::pread(file.get(), bytes.data() + got, count - got,
                                 static_cast<off_t>(offset + static_cast<std::int64_t>(got)));
    if (more < 0 && errno == EINTR) continue;
    if (more < 0) refuse_unread(path, "read", errno);
    if (more == 0) break;
    got += static_cast<std::size_t>(more);
  }
  bytes.resize(got);
}

}  // namespace

bool GrowingFile::begins_anew() {
  if (read_ == 0) return false;
  const Descriptor file(path_, O_RDONLY);
  bool same = is_there(path_, file);
  if (same) {
    const struct stat now = size_and_place(path_, file);
    same = now.st_dev == device_ && now.st_ino == file_ && now.st_size >= read_;
  }
  if (same) {
    std::string mark;
    read_bytes(path_, file, mark, mark_.size(), read_ - static_cast<std::int64_t>(mark_.size()));
    same = mark == mark_;
  }
  if (!same) read_ = 0;
  return !same;
}

void GrowingFile::read(const std::function<void(std::string_view text)>& visit) {
  unfinished_.clear();
  const Descriptor file(path_, O_RDONLY);
  if (!is_there(path_, file)) return;
  const struct stat now = size_and_place(path_, file);
  device_ = now.st_dev;
  file_ = now.st_ino;
  std::size_t enough = std::size_t{1} << 20;  // bytes; more where a line is longer
  for (std::string block;;) {
    read_bytes(path_, file, block, enough, read_);
    const std::size_t whole = block.rfind('\n') + 1;  // 0: none
    if (whole > 0) {
      visit(std::string_view(block).substr(0, whole));
      read_ += static_cast<std::int64_t>(whole);
      const std::size_t marked = std::min(whole, kMark);
      mark_ = block.substr(whole - marked, marked);
    }
    if (block.size() < enough) {
      unfinished_ = block.substr(whole);
      return;
    }
    if (whole == 0) enough *= 2;
  }
}

}  // namespace demist
