// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/writer.hpp"

#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <tuple>

#include "core/file.hpp"
#include "worker/checkpoint/data_file.hpp"
#include "worker/checkpoint/tables.hpp"
#include "worker/checkpoint/write_check.hpp"

namespace demist::checkpoint {
namespace {

static_assert(std::endian::native == std::endian::little,
              "values are stored as they lie in memory");

// Writes values end to end from `offset` in whole chunks, so that a column split's short rows cost
// a copy and not a call, and every chunk is hashed once.
class ChunkWriter {
 public:
  ChunkWriter(WriteCheck& check, std::uint64_t offset, std::span<float> buffer)
      : check_(check), offset_(offset), buffer_(buffer) {}

  void append(std::span<const float> values) {
    while (!values.empty()) {
      if (used_ == 0 && values.size() >= buffer_.size()) {
        put(values.first(buffer_.size()));
        values = values.subspan(buffer_.size());
        continue;
      }
      const std::size_t n = std::min(values.size(), buffer_.size() - used_);
      std::copy_n(values.begin(), n, buffer_.begin() + static_cast<std::ptrdiff_t>(used_));
      used_ += n;
      values = values.subspan(n);
      if (used_ == buffer_.size()) flush();
    }
  }

  std::vector<std::uint64_t> finish() {
    if (used_ > 0) flush();
    return std::move(checksums_);
  }

 private:
  void flush() {
    put(buffer_.first(used_));
    used_ = 0;
  }
  void put(std::span<const float> chunk) {
    checksums_.push_back(check_.write(offset_, std::as_bytes(chunk)));
    offset_ += chunk.size_bytes();
  }

  WriteCheck& check_;
  std::uint64_t offset_;
  const std::span<float> buffer_;
  std::size_t used_ = 0;
  std::vector<std::uint64_t> checksums_;
};

// The limit holds for HDF5's tables in memory too, where a refused write is not survived.
void refuse_if_too_large(const fs::path& path, const std::vector<PlannedBlock>& blocks) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return;
  std::uint64_t values = 0;
  std::size_t stripes = 0;
  for (const PlannedBlock& block : blocks) {
    values += static_cast<std::uint64_t>(block.count);
    stripes += block.stripes.size();
  }
  const std::uint64_t bytes = bytes_for(values, blocks.size(), stripes);
  if (bytes > limit.rlim_cur)
    throw EnvironmentError(path.string() + ": needs " + format_bytes(bytes) +
                           ", and files are limited to " + format_bytes(limit.rlim_cur) +
                           "; raise the limit (ulimit -f) or use more ranks");
}

}  // namespace

std::uint64_t bytes_for(std::uint64_t values, std::size_t datasets, std::size_t pieces) {
  // HDF5's own tables: a header, a link and a stripe table for each dataset, generously.
  constexpr std::uint64_t per_dataset = 8192, per_file = std::uint64_t{1} << 20;
  return per_file + values * sizeof(float) + datasets * per_dataset + pieces * sizeof(Stripe);
}

std::vector<PlannedBlock> plan_blocks(const std::vector<LogicalTensor>& tensors,
                                      std::span<const Piece> pieces) {
  std::vector<const Piece*> order;
  for (const Piece& piece : pieces) {
    ensure(piece.tensor < tensors.size(), "checkpoint: piece of a tensor that is not in the table");
    const auto count = static_cast<std::int64_t>(piece.values.size());
    const LogicalTensor& tensor = tensors[piece.tensor];
    if (piece.start < 0 || count > tensor.size() || piece.start > tensor.size() - count)
      throw InternalError("checkpoint: piece [" + std::to_string(piece.start) + ", +" +
                          std::to_string(count) + ") lies outside '" + tensor.name + "'");
    if (count > 0) order.push_back(&piece);
  }
  const auto key = [](const Piece* p) { return std::tuple(p->tensor, p->kind, p->start); };
  std::ranges::sort(order, {}, key);

  std::vector<PlannedBlock> blocks;
  std::vector<Run> runs;
  const auto end_block = [&] {
    if (!blocks.empty()) blocks.back().stripes = to_stripes(runs);
    runs.clear();
  };
  for (const Piece* piece : order) {
    const auto count = static_cast<std::int64_t>(piece->values.size());
    if (blocks.empty() || blocks.back().tensor != piece->tensor ||
        blocks.back().kind != piece->kind) {
      end_block();
      blocks.push_back({.tensor = piece->tensor, .kind = piece->kind, .stripes = {}, .pieces = {}});
    }
    const std::int64_t end = runs.empty() ? 0 : runs.back().start + runs.back().count;
    ensure(piece->start >= end, "checkpoint: two pieces of one rank overlap");
    if (!runs.empty() && piece->start == end)
      runs.back().count += count;
    else
      runs.push_back({piece->start, count});
    blocks.back().pieces.push_back(piece->values);
    blocks.back().count += count;
  }
  end_block();
  return blocks;
}

PartWriter::PartWriter() = default;
PartWriter::~PartWriter() = default;

Part PartWriter::write(const fs::path& folder, const WriterId& id,
                       const std::vector<LogicalTensor>& tensors,
                       const std::vector<PlannedBlock>& blocks, const std::stop_token& stop) {
  if (blocks.empty()) return {};
  std::array<char, 24> name{};
  std::snprintf(name.data(), name.size(), "w%04d.h5", id.rank);
  const fs::path path = folder / name.data();
  refuse_if_too_large(path, blocks);
  if (!tables_ || !tables_->fit(id, tensors, blocks))
    tables_ = std::make_unique<Tables>(path, id, tensors, blocks);
  Part part{.file = {.name = name.data(), .bytes = tables_->file_bytes()},
            .blocks = tables_->blocks()};
  DataFile file(path);
  file.reserve(part.file.bytes);
  tables_->write(file, id.step);
  std::vector<float> buffer(static_cast<std::size_t>(kChunk));
  WriteCheck check(file, std::span(buffer).size_bytes(), stop);
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    ChunkWriter writer(check, part.blocks[b].offset, buffer);
    for (const std::span<const float> piece : blocks[b].pieces) writer.append(piece);
    part.blocks[b].checksums = writer.finish();
  }
  check.finish();
  file.sync();
  return part;
}

}  // namespace demist::checkpoint
