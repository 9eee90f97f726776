// A checkpoint that is written while training goes on: a thread of each rank writes, ranks agree by
// letters between steps, rank 0 publishes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>

#include "core/mpi.hpp"
#include "worker/checkpoint/checkpoint.hpp"
#include "worker/checkpoint/retention.hpp"

namespace demist::checkpoint {

// What became of a save: the same on every rank, but for `bytes` and `seconds`.
struct SaveReport {
  std::int64_t step = 0;
  mpi::Outcome outcome;
  std::uint64_t bytes = 0;  // of all files; known to rank 0 when the save succeeded
  double seconds = 0;       // from begin() until this rank knew
};

// At most one save is in flight, and it holds one copy of the state. begin() and finish() are
// collective; poll() is called by all ranks now and then (between steps) and never waits. A save
// that fails on any rank fails on all of them and leaves older checkpoints untouched. Only the
// calling thread calls MPI.
class BackgroundSave {
 public:
  // Called on the thread that does the work, before each of its phases: tests hold a save up there,
  // or make it fail.
  enum class Phase { prepare, write, publish, tidy };
  using Hook = std::function<void(Phase)>;

  // Collective.
  BackgroundSave(const mpi::Comm& world, const fs::path& root, const Retention& keep,
                 Hook before_phase = {});
  // Gives up what is in flight: its files are no checkpoint, older ones stand.
  ~BackgroundSave();
  BackgroundSave(const BackgroundSave&) = delete;
  BackgroundSave& operator=(const BackgroundSave&) = delete;

  // `fill` brings the snapshot to the state to be saved, or has it on its way (Snapshot::arrived);
  // it finds it as the last save left it, so that buffers are made once. Throws on all ranks when
  // it throws on one. REQUIRES: !in_flight().
  void begin(const std::function<void(Snapshot&)>& fill);
  bool in_flight() const;
  // The end of the save in flight, once: empty while it goes on, and when there is none.
  std::optional<SaveReport> poll();
  // Waits for it. Empty when there is none.
  std::optional<SaveReport> finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Throws the failure that all ranks know of, if it is one.
void throw_if_failed(const mpi::Comm& world, const SaveReport& report);

}  // namespace demist::checkpoint
