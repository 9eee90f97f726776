// A token shard: the input says how a good one is edited before it becomes a file, then how the
// file is damaged. SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "data/shard.hpp"
#include "data/tokenizer.hpp"
#include "tests/fuzz/shard_file.hpp"

using namespace demist;
using namespace demist::data;

namespace {

void damage(const fuzz::ScratchFile& file, fuzz::Input& input) {
  const auto at = static_cast<off_t>(input.number<std::uint16_t>());
  const auto kind = input.below(4);
  if (kind == 0) {
    fuzz::expect(::ftruncate(file.descriptor(), at) == 0, "the file is cut off");
    return;
  }
  const auto byte = input.number<std::uint8_t>();
  if (at < static_cast<off_t>(fs::file_size(file.path())))
    fuzz::expect(::pwrite(file.descriptor(), &byte, 1, at) == 1, "the file is written");
}

std::vector<std::int32_t> tokens_of(const Shard& shard) {
  std::vector<std::int32_t> tokens(shard.header().n_tokens);
  constexpr std::size_t piece = 100;
  for (std::size_t at = 0; at < tokens.size(); at += piece)
    shard.read(at, std::span(tokens).subspan(at, std::min(piece, tokens.size() - at)));
  return tokens;
}

void use(const Shard& shard, const fs::path& path) {
  shard.verify();
  const std::vector<std::int32_t> tokens = tokens_of(shard);
  fuzz::expect(tokens == tokens_of(Shard(path, ShardIo::pread)), "both ways of reading agree");
  fuzz::expect(
      std::ranges::all_of(
          tokens, [&](std::int32_t id) { return id >= 0 && id < shard.header().vocab_size; }),
      "ids lie in the vocabulary");
  std::vector<std::uint64_t> counts(shard.header().languages.size());
  const auto offsets = shard.document_offsets();
  for (std::size_t d = 0; d < shard.header().n_documents; ++d) {
    fuzz::expect(tokens.at(offsets[d + 1] - 1) == SpecialIds::eos, "a document ends with </s>");
    counts.at(shard.document_language()[d]) += offsets[d + 1] - offsets[d];
  }
  fuzz::expect(counts == shard.header().language_tokens, "tokens are counted by language");
}

}  // namespace

// HDF5 1.10 forgets some memory when it refuses a file.
extern "C" const char* __lsan_default_suppressions() { return "leak:libhdf5"; }

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  const unsigned kind = input.below(4);
  fuzz::ShardFile shard((kind & 1) == 0, input.below(12));
  for (unsigned edits = input.below(8); edits > 0; --edits) shard.edit(input);
  const fuzz::ScratchFile file;
  shard.write(file.path());
  for (unsigned wounds = (kind & 2) == 0 ? 0 : input.below(4); wounds > 0; --wounds)
    damage(file, input);
  fuzz::accepts<DataError>([&] { use(Shard(file.path(), ShardIo::mmap), file.path()); });
  return 0;
}
