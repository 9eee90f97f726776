// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/growing_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/error.hpp"

namespace demist {
namespace {

constexpr std::size_t kMark = 256;  // bytes

class Descriptor {
 public:
  explicit Descriptor(const std::filesystem::path& path)
      : path_(path.string()), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0 && errno != ENOENT) fail();
  }
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  bool is_open() const { return fd_ >= 0; }

  struct stat state() const {
    struct stat now {};
    if (::fstat(fd_, &now) != 0) fail();
    return now;
  }
  // As many as there are, up to `count`.
  void read(std::string& bytes, std::size_t count, std::int64_t offset) const {
    bytes.resize(count);
    std::size_t got = 0;
    while (got < count) {
      const ssize_t more = ::pread(fd_, bytes.data() + got, count - got,
                                   static_cast<off_t>(offset + static_cast<std::int64_t>(got)));
      if (more < 0 && errno == EINTR) continue;
      if (more < 0) fail();
      if (more == 0) break;
      got += static_cast<std::size_t>(more);
    }
    bytes.resize(got);
  }

 private:
  [[noreturn]] void fail() const {
    throw DataError(path_ + ": cannot read: " + std::strerror(errno));
  }
  std::string path_;
  int fd_;
};

}  // namespace

bool GrowingFile::begins_anew() {
  if (read_ == 0) return false;
  const Descriptor file(path_);
  bool same = file.is_open();
  if (same) {
    const struct stat now = file.state();
    same = now.st_dev == device_ && now.st_ino == file_ && now.st_size >= read_;
  }
  if (same) {
    std::string mark;
    file.read(mark, mark_.size(), read_ - static_cast<std::int64_t>(mark_.size()));
    same = mark == mark_;
  }
  if (!same) read_ = 0;
  return !same;
}

void GrowingFile::read(const std::function<void(std::string_view text)>& visit) {
  unfinished_.clear();
  const Descriptor file(path_);
  if (!file.is_open()) return;
  const struct stat now = file.state();
  device_ = now.st_dev;
  file_ = now.st_ino;
  std::size_t enough = std::size_t{1} << 20;  // bytes; more where a line is longer
  for (std::string block;;) {
    file.read(block, enough, read_);
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
