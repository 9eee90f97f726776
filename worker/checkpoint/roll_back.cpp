// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/roll_back.hpp"

#include <algorithm>

#include "core/file.hpp"
#include "worker/checkpoint/catalog.hpp"

namespace demist::checkpoint {
namespace {

// Of the newest checkpoint from before `step`; none when there is none.
std::optional<std::int64_t> newest_before(const fs::path& root, std::int64_t step) {
  std::optional<std::int64_t> newest;
  for (const Entry& entry : list_entries(root))
    if (entry.step < step) newest = std::max(newest.value_or(entry.step), entry.step);
  return newest;
}

void forget_after(const fs::path& root, std::int64_t step) {
  atomic_write(root / "LATEST", directory_name(step) + "\n");
  for (const Entry& entry : list_entries(root))
    if (entry.step > step) remove_entry(entry);
  sync_folder(root);
}

// The save of `missing` failed, or somebody removed it. From the one before, the same steps lead to
// it again, and then to the same decision.
[[noreturn]] void go_round(const mpi::Comm& comm, const fs::path& root, const fs::path& missing,
                           std::int64_t older) {
  mpi::together(comm, "forget newer checkpoints", [&] {
    as_checkpoint_error([&] {
      if (comm.rank() == 0) forget_after(root, older);
    });
  });
  throw AgreedError(ExitCode::environment,
                    missing.string() +
                        " is not there, and training must go back to it; it is made "
                        "again from step " +
                        std::to_string(older));
}

}  // namespace

Checkpoint roll_back(const mpi::Comm& comm, const fs::path& root, std::int64_t step) {
  const fs::path directory = root / directory_name(step);
  std::optional<Checkpoint> opened;
  std::optional<std::int64_t> older;
  mpi::together_alike(comm, "open checkpoint", [&] {
    as_checkpoint_error([&] {
      if (fs::exists(directory)) return void(opened.emplace(directory));
      older = newest_before(root, step);
      if (!older)
        throw CheckpointError(directory.string() +
                              " is not there, and training must go back to it, nor is an older "
                              "one; begin the stage anew (--redo)");
    });
  });
  if (!opened) go_round(comm, root, directory, *older);
  mpi::together(comm, "verify checkpoint", [&] { opened->verify(comm.rank(), comm.size()); });
  mpi::together(comm, "forget newer checkpoints", [&] {
    as_checkpoint_error([&] {
      if (comm.rank() == 0) forget_after(root, step);
    });
  });
  return std::move(*opened);
}

}  // namespace demist::checkpoint
