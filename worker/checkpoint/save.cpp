// SPDX-License-Identifier: Apache-2.0
#include <set>

#include "core/checksum.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "worker/checkpoint/catalog.hpp"
#include "worker/checkpoint/checkpoint.hpp"
#include "worker/checkpoint/manifest.hpp"
#include "worker/checkpoint/writer.hpp"

namespace demist::checkpoint {
namespace {

// HDF5's own tables: a header, a link and a stripe table for each dataset, generously.
constexpr std::int64_t kBytesPerDataset = 8192, kBytesPerFile = std::int64_t{1} << 20;

std::int64_t bytes_needed(const std::vector<PlannedBlock>& blocks) {
  std::int64_t bytes = kBytesPerFile;
  for (const PlannedBlock& block : blocks)
    bytes += block.count * static_cast<std::int64_t>(sizeof(float)) + kBytesPerDataset +
             static_cast<std::int64_t>(block.stripes.size() * sizeof(Stripe));
  return bytes;
}

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

std::string identity(const std::vector<LogicalTensor>& tensors, const Meta& meta) {
  Manifest table;
  table.tensors = tensors;
  table.meta = meta;
  return to_text(table);
}

void prepare_folder(const fs::path& root, const fs::path& temporary, std::int64_t needed) {
  fs::create_directories(root);
  fs::remove_all(temporary);  // left by a killed attempt
  const std::uint64_t free = free_bytes(root);
  if (free < static_cast<std::uint64_t>(needed))
    throw CheckpointError(root.string() + ": a checkpoint needs " +
                          format_bytes(static_cast<std::uint64_t>(needed)) + " but " +
                          format_bytes(free) + " are free; make room or lower the number kept");
  fs::create_directory(temporary);
}

Manifest assemble(const std::vector<LogicalTensor>& tensors, const Meta& meta,
                  const std::vector<std::string>& parts) {
  Manifest manifest{.meta = meta, .tensors = tensors, .files = {}, .blocks = {}};
  for (const std::string& text : parts) {
    Part part = parse_part(text);
    if (part.blocks.empty()) continue;
    for (Block& block : part.blocks) {
      block.file = manifest.files.size();
      manifest.blocks.push_back(std::move(block));
    }
    manifest.files.push_back(part.file);
  }
  return manifest;
}

}  // namespace

void save(const mpi::Comm& comm, const fs::path& root, const std::vector<LogicalTensor>& tensors,
          std::span<const Piece> pieces, const Meta& meta, int keep_last) {
  const fs::path final_path = root / directory_name(meta.step);
  const fs::path temporary = final_path.string() + ".tmp";
  const bool first = comm.rank() == 0;
  const auto together = [&](const char* phase, const auto& body) {
    mpi::together(comm, phase, [&] { as_checkpoint_error(body); });
  };
  try {
    std::vector<PlannedBlock> blocks;
    std::string table;
    together("plan checkpoint", [&] {
      check_table(tensors);
      ensure(meta.step >= 0, "checkpoint: negative step");
      blocks = plan_blocks(tensors, pieces);
      table = identity(tensors, meta);
    });
    const std::string table_of_first = comm.broadcast(table, 0);
    const std::int64_t needed = comm.all_reduce_sum(bytes_needed(blocks));
    together("prepare checkpoint", [&] {
      ensure(table == table_of_first, "checkpoint: ranks disagree on tensors or meta");
      if (first) prepare_folder(root, temporary, needed);
    });
    std::string part;
    together("write checkpoint", [&] {
      const WriterId id{.rank = comm.rank(), .ranks = comm.size(), .step = meta.step};
      part = to_text(write_part(temporary, id, tensors, blocks));
    });
    const std::vector<std::string> parts = comm.gather(part, 0);
    together("publish checkpoint", [&] {
      if (!first) return;
      const Manifest manifest = assemble(tensors, meta, parts);
      check_complete(manifest, temporary.string());
      atomic_write(temporary / kManifestName, to_text(manifest));
      // Every rank compared its file with memory; now the whole must open as a reader sees it.
      const Checkpoint reopened(temporary);
      publish(temporary, final_path);
      atomic_write(root / "LATEST", final_path.filename().string() + "\n");
    });
  } catch (const Error&) {
    std::error_code ignored;  // the next save of this step, or prune, removes what stays
    if (first) fs::remove_all(temporary, ignored);
    throw;
  }
  const mpi::Outcome pruned = mpi::attempt([&] {
    if (first) prune(root, final_path, keep_last);
  });
  // The checkpoint is safe; old ones that stay cost disk only.
  if (!pruned.message.empty()) log::warning("cannot prune old checkpoints: " + pruned.message);
}

}  // namespace demist::checkpoint
