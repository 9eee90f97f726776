// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/save_work.hpp"

#include <set>

#include "core/checksum.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "worker/checkpoint/catalog.hpp"
#include "worker/checkpoint/manifest.hpp"
#include "worker/checkpoint/survey.hpp"

namespace demist::checkpoint {
namespace {

// Names become HDF5 links: '/' would make groups, '.' is HDF5's "here".
void check_table(const std::vector<LogicalTensor>& tensors) {
  std::set<std::string> names;
  for (const LogicalTensor& tensor : tensors) {
    if (tensor.name.empty() || tensor.name == "." ||
        tensor.name.find_first_of(std::string_view("/\0", 2)) != std::string::npos)
      throw InternalError("checkpoint: tensor name '" + tensor.name + "' cannot be stored");
    if (!names.insert(tensor.name).second)
      throw InternalError("checkpoint: tensor '" + tensor.name + "' is in the table twice");
    ensure(tensor.rows >= 0 && tensor.cols >= 0, "checkpoint: tensor with a negative shape");
  }
}

std::string identity_of(const Snapshot& state) {
  Manifest table;
  table.tensors = state.tensors;
  table.meta = state.meta;
  return xxh3_128_hex(bytes_of(to_text(table)));
}

Manifest assemble(const Snapshot& state, const std::vector<Written>& written) {
  Manifest manifest{.meta = state.meta, .tensors = state.tensors, .files = {}, .blocks = {}};
  for (const Written& rank : written) {
    ensure(rank.identity == written.front().identity,
           "checkpoint: ranks disagree on tensors or meta");
    Part part = parse_part(rank.part);
    if (part.blocks.empty()) continue;
    for (Block& block : part.blocks) {
      block.file = manifest.files.size();
      manifest.blocks.push_back(std::move(block));
    }
    manifest.files.push_back(part.file);
  }
  try {
    check_complete(manifest, "checkpoint");
  } catch (const CheckpointError& error) {
    throw InternalError(error.what());  // nothing is damaged: the ranks' pieces are wrong
  }
  return manifest;
}

}  // namespace

SavePaths::SavePaths(const fs::path& root_folder, std::int64_t step)
    : root(root_folder),
      temporary((root_folder / directory_name(step)).string() + ".tmp"),
      final_path(root_folder / directory_name(step)) {}

std::uint64_t bytes_needed(const Snapshot& state) {
  std::uint64_t values = 0;
  for (const Piece& piece : state.pieces) values += piece.values.size();
  const std::size_t datasets = state.tensors.size() * std::size(kKinds);
  return values == 0 ? 0 : bytes_for(values, datasets, state.pieces.size());
}

void prepare_folder(const SavePaths& paths, std::uint64_t needed) {
  fs::create_directories(paths.root);
  fs::remove_all(paths.temporary);  // left by a killed attempt
  const std::uint64_t free = free_bytes(paths.root);
  if (free < needed)
    throw EnvironmentError(paths.root.string() + ": a checkpoint needs " + format_bytes(needed) +
                           " but " + format_bytes(free) +
                           " are free; make room or lower the number kept");
  fs::create_directory(paths.temporary);
}

Written write_pieces(PartWriter& writer, const SavePaths& paths, const Snapshot& state, int rank,
                     int ranks, const std::stop_token& stop) {
  check_table(state.tensors);
  ensure(state.meta.step >= 0, "checkpoint: negative step");
  const WriterId id{.rank = rank, .ranks = ranks, .step = state.meta.step};
  const Part part = writer.write(paths.temporary, id, state.tensors,
                                 plan_blocks(state.tensors, state.pieces), stop);
  return {.part = to_text(part), .identity = identity_of(state), .bytes = part.file.bytes};
}

void publish_parts(const SavePaths& paths, const Snapshot& state,
                   const std::vector<Written>& written) {
  const Manifest manifest = assemble(state, written);
  atomic_write(paths.temporary / kManifestName, to_text(manifest));
  // Every rank compared its file with memory; now the whole must open as a reader sees it.
  const Checkpoint reopened(paths.temporary);
  publish(paths.temporary, paths.final_path);
}

void tidy(const SavePaths& paths, const Retention& keep) {
  const mpi::Outcome latest = mpi::attempt(
      [&] { atomic_write(paths.root / "LATEST", paths.final_path.filename().string() + "\n"); });
  const mpi::Outcome pruned = mpi::attempt([&] { prune(paths.root, paths.final_path, keep); });
  for (const mpi::Outcome& outcome : {latest, pruned})
    if (!outcome.message.empty())
      log::warning("the checkpoint is written, but not tidied up after: " + outcome.message);
}

void discard(const SavePaths& paths) noexcept {
  std::error_code ignored;  // the next save of this step, or prune, removes what stays
  fs::remove_all(paths.temporary, ignored);
}

void as_save_error(const std::function<void()>& body) {
  try {
    body();
  } catch (const DataError& error) {
    throw EnvironmentError(error.what());
  } catch (const CheckpointError& error) {
    throw EnvironmentError(error.what());
  }
}

}  // namespace demist::checkpoint
