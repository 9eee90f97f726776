// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/roll_back.hpp"

#include "core/file.hpp"
#include "worker/checkpoint/catalog.hpp"

namespace demist::checkpoint {
namespace {

void forget_after(const fs::path& root, std::int64_t step) {
  atomic_write(root / "LATEST", directory_name(step) + "\n");
  for (const Entry& entry : list_entries(root))
    if (entry.step > step) remove_entry(entry);
  sync_folder(root);
}

}  // namespace

Checkpoint roll_back(const mpi::Comm& comm, const fs::path& root, std::int64_t step) {
  const fs::path directory = root / directory_name(step);
  std::optional<Checkpoint> opened;
  mpi::together_alike(comm, "open checkpoint", [&] {
    as_checkpoint_error([&] {
      if (!fs::exists(directory))
        throw CheckpointError(directory.string() +
                              " is not there, and training must go back to it; raise "
                              "checkpoint.keep_last");
      opened.emplace(directory);
    });
  });
  mpi::together(comm, "verify checkpoint", [&] { opened->verify(comm.rank(), comm.size()); });
  mpi::together(comm, "forget newer checkpoints", [&] {
    as_checkpoint_error([&] {
      if (comm.rank() == 0) forget_after(root, step);
    });
  });
  return std::move(*opened);
}

}  // namespace demist::checkpoint
