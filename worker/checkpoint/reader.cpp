// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <numeric>
#include <unordered_map>

#include "core/checksum.hpp"
#include "core/file.hpp"
#include "core/h5.hpp"
#include "worker/checkpoint/catalog.hpp"
#include "worker/checkpoint/checkpoint.hpp"
#include "worker/checkpoint/manifest.hpp"

namespace demist::checkpoint {

struct Checkpoint::Impl {
  // A stripe of one tensor and kind, and where its values lie.
  struct Part {
    Stripe stripe;
    std::int64_t last_end;  // largest end of this and all earlier parts
    std::size_t block;
    std::int64_t first;  // of the stripe's values in the block
  };

  fs::path directory;
  Manifest manifest;
  std::unordered_map<std::string, std::size_t> by_name;
  std::vector<std::vector<Part>> parts;  // by slot(); by rising start
  // Filled on use: only the files that this rank needs are mapped, only the chunks hashed.
  std::vector<std::optional<MappedFile>> maps;
  std::vector<std::vector<bool>> verified;  // [block][chunk]

  static std::size_t slot(std::size_t tensor, Kind kind) {
    return tensor * std::size(kKinds) + static_cast<std::size_t>(kind);
  }

  void check_files() const {
    for (const StoredFile& file : manifest.files) {
      const fs::path path = directory / file.name;
      std::error_code error;
      const std::uintmax_t size = fs::file_size(path, error);
      if (error) refuse_unread(path, error);
      if (size != file.bytes)
        throw CheckpointError(path.string() + ": has " + std::to_string(size) +
                              " bytes, the manifest says " + std::to_string(file.bytes));
    }
  }

  void index() {
    for (std::size_t t = 0; t < manifest.tensors.size(); ++t)
      by_name.emplace(manifest.tensors[t].name, t);
    parts.resize(manifest.tensors.size() * std::size(kKinds));
    maps.resize(manifest.files.size());
    for (std::size_t b = 0; b < manifest.blocks.size(); ++b) {
      const Block& block = manifest.blocks[b];
      verified.emplace_back(block.checksums.size(), false);
      std::int64_t first = 0;
      for (const Stripe& stripe : block.stripes) {
        parts[slot(block.tensor, block.kind)].push_back({stripe, 0, b, first});
        first += stripe.size();
      }
    }
    for (auto& list : parts) {
      std::ranges::sort(list, {}, [](const Part& part) { return part.stripe.start; });
      std::int64_t end = 0;
      for (Part& part : list) part.last_end = end = std::max(end, part.stripe.end());
    }
  }

  // Counts only; check_complete() proves the tiling when the whole is verified.
  void check_counts() const {
    for (const Kind kind : kKinds)
      for (std::size_t t = 0; t < manifest.tensors.size(); ++t) {
        std::int64_t count = 0;
        for (const Part& part : parts[slot(t, kind)]) {
          count += part.stripe.size();
          if (count > manifest.tensors[t].size()) break;
        }
        if (present(kind) && count != manifest.tensors[t].size())
          throw CheckpointError((directory / kManifestName).string() + ": " + what(t, kind) +
                                " is not stored exactly once");
      }
  }

  bool present(Kind kind) const {
    return std::ranges::any_of(manifest.blocks, [&](const Block& b) { return b.kind == kind; });
  }

  std::string what(std::size_t tensor, Kind kind) const {
    return "tensor '" + manifest.tensors[tensor].name + "' (" + name_of(kind) + ")";
  }

  std::span<const std::byte> file_bytes(std::size_t file) {
    if (!maps[file]) {
      const fs::path path = directory / manifest.files[file].name;
      maps[file] = as_checkpoint_error([&] { return MappedFile(path); });
      if (maps[file]->bytes().size() != manifest.files[file].bytes)
        throw CheckpointError(path.string() + ": changed its size while it was open");
    }
    return maps[file]->bytes();
  }

  void verify_chunks(std::size_t b, std::size_t begin, std::size_t end) {
    const Block& block = manifest.blocks[b];
    for (std::size_t chunk = begin; chunk < end; ++chunk) {
      if (verified[b][chunk]) continue;
      if (!chunk_intact(file_bytes(block.file), block, chunk))
        throw CheckpointError((directory / manifest.files[block.file].name).string() + ": " +
                              what(block.tensor, block.kind) + " is damaged near byte " +
                              std::to_string(block.offset + chunk * kChunk * sizeof(float)) +
                              "; restore it from a copy");
      verified[b][chunk] = true;
    }
  }

  // Values [first, first + count) of a block.
  void copy_from_block(std::size_t b, std::int64_t first, std::span<float> out) {
    const Block& block = manifest.blocks[b];
    const auto last = first + static_cast<std::int64_t>(out.size()) - 1;
    verify_chunks(b, static_cast<std::size_t>(first / kChunk),
                  static_cast<std::size_t>(last / kChunk) + 1);
    // Small datasets are not aligned to four bytes: copy bytes.
    std::memcpy(out.data(),
                file_bytes(block.file).data() + block.offset +
                    static_cast<std::size_t>(first) * sizeof(float),
                out.size_bytes());
  }

  // Copies what the part holds of the piece; returns the number of values.
  std::int64_t copy_overlap(const Part& part, const MutablePiece& piece, std::int64_t end) {
    const Stripe& s = part.stripe;
    // Runs before this one end at or before the piece's start.
    std::int64_t i = 0;
    if (piece.start >= s.start + s.count && s.repeat > 1)
      i = std::min(s.repeat, (piece.start - s.start - s.count) / s.stride + 1);
    std::int64_t copied = 0;
    for (; i < s.repeat; ++i) {
      const std::int64_t run = s.start + i * s.stride;
      const std::int64_t from = std::max(run, piece.start), to = std::min(run + s.count, end);
      if (run >= end) break;
      if (from >= to) continue;
      copy_from_block(part.block, part.first + i * s.count + (from - run),
                      piece.values.subspan(static_cast<std::size_t>(from - piece.start),
                                           static_cast<std::size_t>(to - from)));
      copied += to - from;
    }
    return copied;
  }

  void read(const MutablePiece& piece) {
    if (piece.tensor >= manifest.tensors.size())
      throw InternalError("checkpoint: read of a tensor that is not in the table");
    const auto count = static_cast<std::int64_t>(piece.values.size());
    const std::int64_t size = manifest.tensors[piece.tensor].size();
    if (piece.start < 0 || count > size || piece.start > size - count)
      throw CheckpointError(directory.string() + ": " + what(piece.tensor, piece.kind) + " has " +
                            std::to_string(size) + " elements, [" + std::to_string(piece.start) +
                            ", +" + std::to_string(count) + ") was asked for");
    const auto& list = parts[slot(piece.tensor, piece.kind)];
    const std::int64_t end = piece.start + count;
    std::int64_t copied = 0;
    auto part = std::ranges::upper_bound(list, piece.start, {}, &Part::last_end);
    for (; part != list.end() && part->stripe.start < end; ++part)
      copied += copy_overlap(*part, piece, end);
    if (copied != count)
      throw CheckpointError(directory.string() + ": " + what(piece.tensor, piece.kind) + " has " +
                            std::to_string(copied) + " of the " + std::to_string(count) +
                            " elements asked for");
  }
};

Checkpoint::Checkpoint(const fs::path& directory) : impl_(std::make_unique<Impl>()) {
  const fs::path path = directory / kManifestName;
  std::error_code error;
  if (!fs::is_directory(directory, error)) {
    if (error && !is_wrong_path(error.value())) refuse_unread(directory, error);
    throw CheckpointError(directory.string() + ": no such checkpoint directory");
  }
  const bool finished = fs::exists(path, error);
  if (error) refuse_unread(path, error);
  if (!finished)
    throw CheckpointError(path.string() +
                          ": missing, so this save was never finished; delete its folder");
  impl_->directory = directory;
  impl_->manifest =
      parse_manifest(as_checkpoint_error([&] { return read_file(path); }), path.string());
  impl_->check_files();
  impl_->index();
  impl_->check_counts();
}

Checkpoint::~Checkpoint() = default;
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;

const Meta& Checkpoint::meta() const { return impl_->manifest.meta; }
const std::vector<LogicalTensor>& Checkpoint::tensors() const { return impl_->manifest.tensors; }
const std::vector<StoredFile>& Checkpoint::files() const { return impl_->manifest.files; }
const fs::path& Checkpoint::directory() const { return impl_->directory; }
bool Checkpoint::has(Kind kind) const { return impl_->present(kind); }
void Checkpoint::read(MutablePiece piece) const { impl_->read(piece); }

std::optional<std::size_t> Checkpoint::find(const std::string& name) const {
  const auto found = impl_->by_name.find(name);
  if (found == impl_->by_name.end()) return {};
  return found->second;
}

void Checkpoint::verify(int share, int shares) const {
  check_complete(impl_->manifest, (impl_->directory / kManifestName).string());
  const auto& blocks = impl_->manifest.blocks;
  std::size_t chunks = 0;
  for (const Block& block : blocks) chunks += block.checksums.size();
  const auto border = [&](int s) {
    return chunks * static_cast<std::size_t>(s) / static_cast<std::size_t>(shares);
  };
  const std::size_t begin = border(share), end = border(share + 1);
  std::size_t first = 0;  // of the block
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    const std::size_t last = first + blocks[b].checksums.size();
    impl_->verify_chunks(b, std::clamp(begin, first, last) - first,
                         std::clamp(end, first, last) - first);
    first = last;
  }
}

void Checkpoint::verify_tables() const {
  const Manifest& manifest = impl_->manifest;
  for (std::size_t f = 0; f < manifest.files.size(); ++f) {
    const fs::path path = impl_->directory / manifest.files[f].name;
    const auto refuse = [&](const std::string& why) {
      throw CheckpointError(path.string() + ": its HDF5 tables are damaged (" + why +
                            "); training reads its values all the same, other programs may not");
    };
    try {
      const h5::File file = h5::File::open(path);
      for (const Block& block : manifest.blocks) {
        if (block.file != f) continue;
        const std::string name = dataset_name(manifest.tensors[block.tensor], block.kind);
        const h5::Extent extent = file.extent(name);
        if (extent.offset != block.offset ||
            extent.count != static_cast<std::uint64_t>(block.count) ||
            file.read_all<std::int64_t>(stripe_table_name(name)) != flat(block.stripes))
          refuse(name + " is not where the manifest has it");
      }
    } catch (const DataError& error) {
      refuse(error.what());
    }
  }
}

std::string Checkpoint::hash() const {
  const auto& table = tensors();
  std::vector<std::size_t> order(table.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, {}, [&](std::size_t t) -> const std::string& { return table[t].name; });
  Sha256 sha;
  std::vector<float> buffer(static_cast<std::size_t>(kChunk));
  for (const std::size_t t : order)
    for (const Kind kind : kKinds) {
      if (!has(kind)) continue;
      const LogicalTensor& tensor = table[t];
      sha.update(tensor.name + "\n" + std::to_string(tensor.rows) + " " +
                 std::to_string(tensor.cols) + " " + name_of(kind) + "\n");
      for (std::int64_t at = 0; at < tensor.size(); at += kChunk) {
        const auto values =
            std::span(buffer).first(static_cast<std::size_t>(std::min(kChunk, tensor.size() - at)));
        read({.tensor = t, .kind = kind, .start = at, .values = values});
        sha.update(std::as_bytes(values));
      }
    }
  sha.update("step " + std::to_string(meta().step) + "\n");
  return sha.hex();
}

}  // namespace demist::checkpoint
