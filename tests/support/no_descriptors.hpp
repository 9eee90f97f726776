// A limit on descriptors stands for a disk or a mount that fails on this machine alone.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/resource.h>

#include "core/error.hpp"

namespace demist::test {

// While in scope this process can open no file: EMFILE.
class NoDescriptors {
 public:
  NoDescriptors() {
    ensure(::getrlimit(RLIMIT_NOFILE, &before_) == 0, "there is a limit");
    const rlimit none{.rlim_cur = 0, .rlim_max = before_.rlim_max};
    ensure(::setrlimit(RLIMIT_NOFILE, &none) == 0, "a limit can be lowered");
  }
  ~NoDescriptors() { ::setrlimit(RLIMIT_NOFILE, &before_); }
  NoDescriptors(const NoDescriptors&) = delete;
  NoDescriptors& operator=(const NoDescriptors&) = delete;

 private:
  rlimit before_{};
};

}  // namespace demist::test
