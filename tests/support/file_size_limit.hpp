// A limit on the length of files stands for a full disk.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/resource.h>

#include <csignal>

#include "core/error.hpp"

namespace demist::test {

// While in scope no file of this process grows beyond `bytes`; writes come short, or fail.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ensure(::getrlimit(RLIMIT_FSIZE, &before_) == 0, "there is a limit");
    const rlimit small{.rlim_cur = bytes, .rlim_max = before_.rlim_max};
    ensure(::setrlimit(RLIMIT_FSIZE, &small) == 0, "a limit can be lowered");
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_{};
  void (*handler_)(int);
};

}  // namespace demist::test
