// corpus.json, and the record of a finished range. The input is the text before the seal: the seal
// is put on here, or nothing would get past its checksum. SPDX-License-Identifier: Apache-2.0
#include "core/seal.hpp"
#include "data/manifest.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace demist;
using namespace demist::data;

namespace {

// A file of the folder itself, whatever is joined.
void expect_inside(const std::vector<ManifestShard>& shards) {
  const fs::path folder = "corpus";
  for (const ManifestShard& shard : shards)
    fuzz::expect((folder / shard.file).lexically_normal().parent_path() == folder,
                 "a shard lies in the folder");
}

void use(const Manifest& manifest) {
  expect_inside(manifest.shards);
  for (const ManifestShard& shard : manifest.shards)
    fuzz::expect(shard.tokens <= manifest.tokens() && shard.documents <= manifest.documents(),
                 "a corpus has no fewer tokens and documents than a shard");
  for (const ManifestInput& input : manifest.inputs)
    fuzz::expect(input.skipped.invalid() >= input.skipped.too_long, "counts add up");
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string body = fuzz::Input(data, size).rest();
  fuzz::accepts<DataError>([&] { parse_manifest(body, "corpus/corpus.json"); });
  fuzz::accepts<DataError>([&] {
    const Manifest manifest = parse_manifest(sealed(body + "}"), "corpus/corpus.json");
    use(manifest);
    const std::string text = to_json(manifest);
    fuzz::expect(to_json(parse_manifest(text, "corpus/corpus.json")) == text,
                 "a manifest is read as written");
  });
  fuzz::accepts<DataError>([&] {
    const RangeResult result = parse_range_result(body, "range-0.json");
    expect_inside(result.shards);
    const std::string text = to_json(result);
    fuzz::expect(to_json(parse_range_result(text, "range-0.json")) == text,
                 "a record is read as written");
  });
  return 0;
}
