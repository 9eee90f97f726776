// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/writer.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <tuple>

#include "core/checksum.hpp"
#include "core/file.hpp"
#include "core/h5.hpp"

namespace demist::checkpoint {
namespace {

static_assert(std::endian::native == std::endian::little,
              "values are stored as they lie in memory");

// Appends values to a dataset in whole chunks, so that a column split's short rows cost a copy and
// not a call, and every chunk is hashed once.
class ChunkWriter {
 public:
  ChunkWriter(h5::File& file, std::string dataset)
      : file_(file), dataset_(std::move(dataset)), buffer_(static_cast<std::size_t>(kChunk)) {}

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
    put(std::span<const float>(buffer_).first(used_));
    used_ = 0;
  }
  void put(std::span<const float> chunk) {
    file_.write_at(dataset_, written_, chunk.data(), chunk.size());
    written_ += chunk.size();
    checksums_.push_back(xxh3_64(std::as_bytes(chunk)));
  }

  h5::File& file_;
  std::string dataset_;
  std::vector<float> buffer_;
  std::size_t used_ = 0;
  std::uint64_t written_ = 0;
  std::vector<std::uint64_t> checksums_;
};

std::vector<std::int64_t> flat(const std::vector<Stripe>& stripes) {
  std::vector<std::int64_t> numbers;
  for (const Stripe& s : stripes)
    numbers.insert(numbers.end(), {s.start, s.count, s.stride, s.repeat});
  return numbers;
}

Block write_block(h5::File& file, const std::string& tensor, const PlannedBlock& planned) {
  const std::string name = "/t/" + tensor + "/" + name_of(planned.kind);
  file.allocate(name, h5::Type::f32, static_cast<std::uint64_t>(planned.count));
  ChunkWriter writer(file, name);
  for (const std::span<const float> piece : planned.pieces) writer.append(piece);
  // The file explains itself without the manifest.
  file.write(name + ".stripes", flat(planned.stripes));
  return {.file = 0,
          .tensor = planned.tensor,
          .kind = planned.kind,
          .offset = file.extent(name).offset,
          .count = planned.count,
          .stripes = planned.stripes,
          .checksums = writer.finish()};
}

void check_file(const fs::path& path, const std::vector<Block>& blocks) {
  const MappedFile map(path);
  for (const Block& block : blocks)
    for (std::size_t chunk = 0; chunk < block.checksums.size(); ++chunk)
      if (!chunk_intact(map.bytes(), block, chunk))
        throw CheckpointError(path.string() +
                              ": reading back gives other bytes than were written; check the disk");
}

}  // namespace

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

Part write_part(const fs::path& folder, const WriterId& id,
                const std::vector<LogicalTensor>& tensors,
                const std::vector<PlannedBlock>& blocks) {
  if (blocks.empty()) return {};
  std::array<char, 24> name{};
  std::snprintf(name.data(), name.size(), "w%04d.h5", id.rank);
  Part part;
  part.file.name = name.data();
  const fs::path path = folder / part.file.name;
  h5::File file = h5::File::create(path);
  file.set_attribute("/", "format", std::string(kFormat));
  file.set_attribute("/", "step", static_cast<std::uint64_t>(id.step));
  file.set_attribute("/", "writer", static_cast<std::uint64_t>(id.rank));
  file.set_attribute("/", "writers", static_cast<std::uint64_t>(id.ranks));
  for (const PlannedBlock& block : blocks)
    part.blocks.push_back(write_block(file, tensors[block.tensor].name, block));
  file.close();
  sync_file(path);
  part.file.bytes = fs::file_size(path);
  check_file(path, part.blocks);
  return part;
}

}  // namespace demist::checkpoint
