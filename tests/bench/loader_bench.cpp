// Speed of the packed source on one thread, by processor time (user and system), so that other
// programs do not count: loader_bench [seconds]. Reads a real shard from a temporary folder; the
// page cache is warm.
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <utility>
#include <vector>

#include "core/philox.hpp"
#include "data/packed_source.hpp"
#include "data/shard.hpp"

namespace demist::data {
namespace {

constexpr std::int32_t kVocab = 32000;

// One shard of 16 M random tokens in documents of 300.
Shard make_shard(const std::filesystem::path& path) {
  ShardContent content;
  for (std::uint64_t i = 0; i < (16u << 20); ++i) {
    const bool last = i % 300 == 299;
    content.tokens.push_back(last ? 2 : 4 + static_cast<std::uint32_t>(mix64(i) % (kVocab - 5)));
    if (!last) continue;
    content.document_offsets.push_back(i + 1);
    content.document_language.push_back(0);
  }
  content.tokens.resize(content.document_offsets.back());
  ShardHeader header;
  header.vocab_size = kVocab;
  header.corpus_name = "bench";
  header.n_tokens = content.tokens.size();
  header.n_documents = content.document_language.size();
  header.languages = {"und"};
  header.language_tokens = {header.n_tokens};
  write_shard(path, header, content);
  return Shard(path);
}

class OneShard final : public TokenStore {
 public:
  explicit OneShard(Shard shard) : shard_(std::move(shard)) {}
  std::size_t languages() const override { return 1; }
  std::size_t shards() const override { return 1; }
  std::span<const std::uint64_t> document_offsets(std::size_t) const override {
    return shard_.document_offsets();
  }
  std::size_t language(std::size_t, std::size_t) const override { return 0; }
  void read(std::size_t, std::uint64_t begin, std::span<std::int32_t> out) const override {
    shard_.read(begin, out);
  }
  void prefetch(std::size_t, std::uint64_t begin, std::uint64_t count) const override {
    shard_.prefetch(begin, count);
  }

 private:
  Shard shard_;
};

double million_tokens_a_second(const Source& source, double seconds) {
  const std::clock_t start = std::clock();
  double elapsed = 0;
  std::int64_t tokens = 0;
  for (std::int64_t step = 0; elapsed < seconds; ++step) {
    tokens += source.make(step, 0).real_tokens;
    elapsed = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  }
  return static_cast<double>(tokens) / elapsed / 1e6;
}

void measure(const std::filesystem::path& path, double seconds) {
  make_shard(path);
  for (const bool rdm : {false, true})
    for (const std::int32_t length : {128, 512}) {
      PackedOptions options;
      options.batch = {.micro_batches = 1, .max_tokens = 8192, .sequence_length = length};
      if (rdm) options.noise = RdmNoise{};
      options.mask_id = kVocab - 1;
      options.vocab_size = kVocab;
      const auto source = make_packed_source(std::make_unique<OneShard>(Shard(path)), options);
      million_tokens_a_second(*source, seconds / 4);  // checksums are verified on first touch
      std::printf("%s  %3d tokens a row  %6.1f M tokens/s\n", rdm ? "rdm" : "mlm", length,
                  million_tokens_a_second(*source, seconds));
    }
}

}  // namespace
}  // namespace demist::data

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 1.0;
  const auto folder = std::filesystem::temp_directory_path() / "demist-loader-bench";
  std::filesystem::create_directories(folder);
  demist::data::measure(folder / "shard.h5", seconds);
  std::filesystem::remove_all(folder);
}
