// What a save does to the disk. Nothing here calls MPI, so any thread may do it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <stop_token>
#include <string>
#include <vector>

#include "worker/checkpoint/checkpoint.hpp"
#include "worker/checkpoint/retention.hpp"
#include "worker/checkpoint/writer.hpp"

namespace demist::checkpoint {

// Where a save of one step writes, and what it becomes.
struct SavePaths {
  SavePaths(const fs::path& root_folder, std::int64_t step);
  fs::path root, temporary, final_path;
};

// What a rank tells rank 0 of its file.
struct Written {
  std::string part;      // to_text(Part)
  std::string identity;  // of the tensor table and meta, equal on all ranks
  std::uint64_t bytes = 0;
};

// Bytes of this rank's file, at most; cheap.
std::uint64_t bytes_needed(const Snapshot& state);

// Rank 0, before anybody writes: room for `needed` bytes, and a new temporary folder.
void prepare_folder(const SavePaths& paths, std::uint64_t needed);
// Every rank, with a writer that it keeps from save to save.
Written write_pieces(PartWriter& writer, const SavePaths& paths, const Snapshot& state, int rank,
                     int ranks, const std::stop_token& stop);
// Rank 0, when all have written: manifest, a look at the whole as a reader sees it, final name.
void publish_parts(const SavePaths& paths, const Snapshot& state,
                   const std::vector<Written>& written);
// Rank 0, when it has its name: LATEST, and what need not be kept any more. The checkpoint is safe,
// so what goes wrong here is only warned of.
void tidy(const SavePaths& paths, const Retention& keep);
// Rank 0, after a failure, when nobody writes any more.
void discard(const SavePaths& paths) noexcept;

// Runs body; whatever keeps a save from succeeding becomes an EnvironmentError, bugs stay bugs.
void as_save_error(const std::function<void()>& body);

}  // namespace demist::checkpoint
