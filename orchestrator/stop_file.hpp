// <run>/STOP: a request to save and stop, for whoever works on a run, on any host.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

namespace demist {

inline constexpr const char* kStopFile = "STOP";

class StopFile {
 public:
  explicit StopFile(const std::filesystem::path& run_dir) : path_(run_dir / kStopFile) {}
  bool look();  // now; what was found once stays
  // As often as anybody likes: looks once a second at most.
  bool look_now_and_then();
  bool found() const { return found_; }  // so far

 private:
  std::filesystem::path path_;
  double next_look_ = 0;
  bool found_ = false;
};

}  // namespace demist
