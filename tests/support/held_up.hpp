// A background save that a test holds up in a phase, makes fail, or watches.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <mutex>
#include <vector>

#include "core/error.hpp"
#include "worker/checkpoint/background_save.hpp"

namespace demist::test {

using SavePhase = checkpoint::BackgroundSave::Phase;

// hook() goes into a BackgroundSave. A phase that is closed waits until it is opened; one that
// fails throws as a disk would.
class SaveStage {
 public:
  checkpoint::BackgroundSave::Hook hook() {
    return [this](SavePhase phase) { pass(phase); };
  }
  void close(SavePhase phase) {
    const std::lock_guard lock(mutex_);
    closed_.push_back(phase);
  }
  void open() {
    const std::lock_guard lock(mutex_);
    closed_.clear();
    changed_.notify_all();
  }
  void fail(SavePhase phase) { failing_.push_back(phase); }
  void repair() { failing_.clear(); }
  // Whether the writing thread stands before a closed phase.
  bool held() {
    const std::lock_guard lock(mutex_);
    return held_;
  }

 private:
  void pass(SavePhase phase) {
    std::unique_lock lock(mutex_);
    held_ = is_in(closed_, phase);
    changed_.wait(lock, [&] { return !is_in(closed_, phase); });
    held_ = false;
    if (is_in(failing_, phase)) throw EnvironmentError("the disk says no");
  }
  static bool is_in(const std::vector<SavePhase>& phases, SavePhase phase) {
    for (const SavePhase one : phases)
      if (one == phase) return true;
    return false;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<SavePhase> closed_, failing_;
  bool held_ = false;
};

}  // namespace demist::test
