// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/stop_file.hpp"

#include "orchestrator/progress.hpp"

namespace demist {

bool StopFile::look() {
  std::error_code unreadable;
  found_ = found_ || std::filesystem::exists(path_, unreadable);
  next_look_ = steady_seconds() + 1;
  return found_;
}

bool StopFile::look_now_and_then() {
  if (!found_ && steady_seconds() >= next_look_) look();
  return found_;
}

}  // namespace demist
