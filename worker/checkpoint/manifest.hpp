// MANIFEST.json of a checkpoint as values, and its text form (docs/formats/checkpoint.md).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "worker/checkpoint/checkpoint.hpp"
#include "worker/checkpoint/layout.hpp"

namespace demist::checkpoint {

inline constexpr const char* kFormat = "demist.ckpt/1";
inline constexpr const char* kManifestName = "MANIFEST.json";
inline constexpr std::int64_t kChunk = std::int64_t{1} << 20;  // values under one checksum

// The part of one tensor and kind that one file holds: a dataset of the runs' values, end to end.
struct Block {
  std::size_t file = 0, tensor = 0;
  Kind kind = Kind::parameter;
  std::uint64_t offset = 0;  // bytes from the start of the file
  std::int64_t count = 0;    // values
  std::vector<Stripe> stripes;
  std::vector<std::uint64_t> checksums;  // XXH3-64 of each kChunk values
};

struct Manifest {
  Meta meta;
  std::vector<LogicalTensor> tensors;
  std::vector<StoredFile> files;
  std::vector<Block> blocks;
};

std::string to_text(const Manifest& manifest);
// Checks everything that the text alone can tell: checksum, format, ranges, names, references.
// Throws CheckpointError("<where>: ...").
Manifest parse_manifest(const std::string& text, const std::string& where);

// What one rank tells rank 0 about the file it wrote. Empty text: it wrote none.
struct Part {
  StoredFile file;
  std::vector<Block> blocks;
};
std::string to_text(const Part& part);
Part parse_part(const std::string& text);  // throws CheckpointError

// Throws CheckpointError unless each kind that occurs covers every tensor exactly once.
void check_complete(const Manifest& manifest, const std::string& where);

// In a data file: the values of a block, and the table of the runs that they are.
std::string dataset_name(const LogicalTensor& tensor, Kind kind);
std::string stripe_table_name(const std::string& dataset);

// Whether chunk `index` of the block is intact in the file's bytes.
bool chunk_intact(std::span<const std::byte> file, const Block& block, std::size_t index);

}  // namespace demist::checkpoint
