// Checkpoints: boxes of logical tensors, format demist.ckpt/1 (docs/formats/checkpoint.md).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/mpi.hpp"
#include "core/tensor.hpp"

namespace demist::checkpoint {

namespace fs = std::filesystem;

// A logical tensor is what Hugging Face would call it: unsharded, unfused, unpadded, fp32. Its kind
// says which of the three values per element is meant.
enum class Kind : std::uint8_t { parameter, adam_m, adam_v };
inline constexpr Kind kKinds[] = {Kind::parameter, Kind::adam_m, Kind::adam_v};
const char* name_of(Kind kind);

struct LogicalTensor {
  std::string name;
  std::int64_t rows = 1, cols = 0;  // a vector has one row
  std::int64_t size() const { return rows * cols; }
  bool operator==(const LogicalTensor&) const = default;
};

// A run of elements of the flattened logical tensor (row-major). A column-split matrix is one piece
// a row; pieces of one tensor over all ranks must tile it exactly for each kind present.
struct Piece {
  std::size_t tensor = 0;  // index into the tensor table
  Kind kind = Kind::parameter;
  std::int64_t start = 0;  // first element of the flattened tensor
  std::span<const float> values;
};
struct MutablePiece {
  std::size_t tensor = 0;
  Kind kind = Kind::parameter;
  std::int64_t start = 0;
  std::span<float> values;
};

// Everything that is not a tensor. All strings are opaque to this folder.
struct Meta {
  std::int64_t step = 0;   // finished steps of the stage
  std::string stage;       // recipe's stage name
  std::string model_json;  // architecture (worker::ModelConfig as JSON)
  std::string recipe_hash, tokenizer_hash, data_hash;
  std::string state_json;  // what the trainer needs besides: scales, counters, noise settings
  std::optional<double> held_out_loss = {};  // of this state; empty: was not measured
};

// What a save writes: one rank's pieces, and what all ranks say alike. The pieces point into memory
// that stays as it is until the save is done: the state itself, or `copies` of it.
struct Snapshot {
  std::vector<LogicalTensor> tensors;
  std::vector<Piece> pieces;
  Meta meta;
  std::vector<Buffer<float>> copies;
  // Whether the copies are whole; empty: they are. For the thread that had them made.
  std::function<bool()> arrived = {};
};

// Collective. Each rank writes its pieces to one HDF5 file in <root>/step-XXXXXXXX.tmp, syncs;
// ranks agree; rank 0 writes MANIFEST.json with the checksums, renames the directory, updates
// LATEST, and prunes to the newest `keep_last` (0: keep all). Tensors and meta must be equal on all
// ranks; a rank may hold no pieces. Any failure throws on all ranks and leaves older checkpoints
// untouched. One save at a time in a root. Waits for the disk: see BackgroundSave.
void save(const mpi::Comm& comm, const fs::path& root, const std::vector<LogicalTensor>& tensors,
          std::span<const Piece> pieces, const Meta& meta, int keep_last);

// One HDF5 file of a checkpoint: what one writing rank held.
struct StoredFile {
  std::string name;
  std::uint64_t bytes = 0;
  std::int64_t values = 0;   // fp32 values of all tensors and kinds
  std::size_t datasets = 0;  // one for each (tensor, kind) that the writer held a part of
};

// A verified-on-read checkpoint directory. One thread at a time.
class Checkpoint {
 public:
  // Reads and checks MANIFEST.json and file sizes. Throws CheckpointError.
  explicit Checkpoint(const fs::path& directory);
  ~Checkpoint();
  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;

  const Meta& meta() const;
  const std::vector<LogicalTensor>& tensors() const;
  const std::vector<StoredFile>& files() const;
  const fs::path& directory() const;
  std::optional<std::size_t> find(const std::string& name) const;
  bool has(Kind kind) const;
  // Fills any piece, whatever layout wrote it. piece.tensor indexes this checkpoint's table. Bytes
  // are verified against their checksum on first use. Throws CheckpointError naming file and
  // tensor.
  void read(MutablePiece piece) const;
  // Every checksum, of a share of the chunks (one of `shares`), and that the parts tile every
  // tensor.
  void verify(int share = 0, int shares = 1) const;
  // That HDF5 finds in the files what read() takes from them without it: other programs need that,
  // training does not. Throws CheckpointError.
  void verify_tables() const;
  // SHA-256 over (name, shape, kind, fp32 bytes) in name order, plus step: the same for any layout
  // of the same state.
  std::string hash() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Collective. For going on: the newest checkpoint under `root` that opens on every rank and
// verifies, of which each rank reads a share; bad ones are named in a warning and passed over.
// Empty when the folder holds none; throws when all of them are bad, or some rank cannot read one.
std::optional<Checkpoint> open_latest(const fs::path& root, const mpi::Comm& comm = {});
// For results: the checkpoint of this step, verified, or a CheckpointError.
Checkpoint open_step(const fs::path& root, std::int64_t step);
// A path to a checkpoint directory, or to a folder of checkpoints: then the newest, verified.
// Throws when it is bad: whoever named it did not ask for an older one.
Checkpoint open_any(const fs::path& path);

}  // namespace demist::checkpoint
