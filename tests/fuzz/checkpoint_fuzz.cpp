// MANIFEST.json of a checkpoint, and the part of it that a rank sends to rank 0. The input is the
// text before the seal: the seal is put on here, or nothing would get past its checksum.
// SPDX-License-Identifier: Apache-2.0
#include "core/checksum.hpp"
#include "tests/fuzz/fuzz.hpp"
#include "worker/checkpoint/manifest.hpp"

using namespace demist;
using namespace demist::checkpoint;

namespace {

std::string sealed(const std::string& body) {
  return body + ",\"xxh3\":\"" + xxh3_128_hex(bytes_of(body)) + "\"}\n";
}

// The most bytes and runs that one input may ask for: a manifest of a real checkpoint asks for as
// much as its files hold.
constexpr std::uint64_t kMost = 1u << 20;

void use(const Manifest& manifest) {
  std::int64_t runs = 0;
  for (const Block& block : manifest.blocks) {
    for (const Stripe& stripe : block.stripes) {
      fuzz::expect(stripe.size() > 0 && stripe.end() <= manifest.tensors[block.tensor].size(),
                   "a stripe lies in its tensor");
      runs += stripe.repeat;
    }
    const std::uint64_t bytes = manifest.files[block.file].bytes;
    if (bytes > kMost) continue;
    const std::vector<std::byte> file(bytes);
    for (std::size_t chunk = 0; chunk < block.checksums.size(); ++chunk)
      chunk_intact(file, block, chunk);
  }
  if (runs <= static_cast<std::int64_t>(kMost))
    fuzz::accepts<CheckpointError>([&] { check_complete(manifest, "manifest"); });
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string body = fuzz::Input(data, size).rest();
  fuzz::accepts<CheckpointError>([&] { parse_manifest(body, "manifest"); });
  fuzz::accepts<CheckpointError>([&] {
    const Manifest manifest = parse_manifest(sealed(body), "manifest");
    use(manifest);
    const std::string text = to_text(manifest);
    fuzz::expect(to_text(parse_manifest(text, "manifest")) == text,
                 "a manifest is read as written");
  });
  fuzz::accepts<CheckpointError>([&] {
    const std::string text = to_text(parse_part(body));
    fuzz::expect(to_text(parse_part(text)) == text, "a part is read as written");
  });
  return 0;
}
