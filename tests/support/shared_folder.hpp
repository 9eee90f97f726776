// One temporary folder for all ranks of an MPI test.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "tests/support/mpi_main.hpp"
#include "tests/support/temporary_folder.hpp"

namespace demist::test {

// Collective over the world. Removed when all ranks have left the scope.
class SharedFolder {
 public:
  SharedFolder() {
    if (world().rank() == 0) folder_.emplace();
    path_ = world().broadcast(folder_ ? folder_->path().string() : std::string(), 0);
  }
  SharedFolder(const SharedFolder&) = delete;
  SharedFolder& operator=(const SharedFolder&) = delete;
  ~SharedFolder() { world().barrier(); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::optional<TemporaryFolder> folder_;  // on rank 0
  std::filesystem::path path_;
};

}  // namespace demist::test
