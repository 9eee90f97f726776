// Sources over files: a corpus built on disk, tasks read from compressed text.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <set>

#include "core/error.hpp"
#include "data/source.hpp"
#include "tests/data/batches.hpp"
#include "tests/data/text_fixture.hpp"

namespace demist::data {
namespace {

class SourceFiles : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = test::fresh_folder("source_files");
    test::train_small_tokenizer(folder_, folder_ / "model.spm");
    test::write_text(folder_ / "en.txt", test::make_text(300, 2));
    test::write_text(folder_ / "de.txt", test::make_text(60, 3));
    CorpusBuild build;
    build.name = "test";
    build.tokenizer = folder_ / "model.spm";
    build.output = folder_ / "corpus";
    build.range_bytes = 4096;
    build.inputs = {{folder_ / "en.txt", "en", {}}, {folder_ / "de.txt", "de", {}}};
    build_corpus(mpi::Comm(), build);
  }
  static void TearDownTestSuite() { fs::remove_all(folder_); }
  static PackedOptions options(const Corpus& corpus) {
    PackedOptions options;
    options.batch = {.micro_batches = 1, .max_tokens = 64, .sequence_length = 16};
    options.document_mask = true;
    options.vocab_size = static_cast<std::int32_t>(corpus.vocab_size());
    options.mask_id = options.vocab_size - 1;
    return options;
  }
  static fs::path folder_;
};
fs::path SourceFiles::folder_;

TEST_F(SourceFiles, AnEpochOfACorpusIsEveryBlockOfItsShards) {
  const auto corpus = std::make_shared<const Corpus>(folder_ / "corpus");
  const auto source = make_packed_source(corpus, options(*corpus));
  std::multiset<std::vector<std::int32_t>> expected, seen;
  for (const Shard& shard : corpus->shards())
    for (std::uint64_t begin = 0; begin + 15 <= shard.header().n_tokens; begin += 15) {
      std::vector<std::int32_t> block(15);
      shard.read(begin, block);
      expected.insert(block);
    }
  ASSERT_GT(expected.size(), 100u);
  for (std::int64_t step = 0; seen.size() < expected.size(); ++step) {
    const auto ids = clean_ids(source->make(step, 0));
    for (auto row = ids.begin(); row != ids.end() && seen.size() < expected.size(); row += 16)
      seen.insert(std::vector<std::int32_t>(row + 1, row + 16));
  }
  EXPECT_EQ(seen, expected);
}

TEST_F(SourceFiles, DocumentsEndWithEosAndTheNextStartsAfresh) {
  const auto corpus = std::make_shared<const Corpus>(folder_ / "corpus");
  const auto source = make_packed_source(corpus, options(*corpus));
  int borders = 0;
  for (std::int64_t step = 0; step < 40; ++step) {
    const MicroBatch batch = source->make(step, 0);
    const auto ids = clean_ids(batch);
    for (std::size_t i = 1; i < ids.size(); ++i) {
      if (i % 16 == 0 || batch.positions[i] != 2) continue;
      EXPECT_EQ(ids[i - 1], SpecialIds::eos);
      EXPECT_EQ(batch.key_begin[i], static_cast<std::int32_t>(i % 16));
      EXPECT_EQ(batch.key_end[i - 1], static_cast<std::int32_t>(i % 16));
      ++borders;
    }
  }
  EXPECT_GT(borders, 5);
}

TEST_F(SourceFiles, AModelWithFewerIdsThanTheCorpusIsRefused) {
  const auto corpus = std::make_shared<const Corpus>(folder_ / "corpus");
  PackedOptions small = options(*corpus);
  --small.vocab_size, --small.mask_id;
  EXPECT_THROW(make_packed_source(corpus, small), ConfigError);
}

TEST_F(SourceFiles, ReadsATaskAndReportsItsLines) {
  const Tokenizer tokenizer(folder_ / "model.spm");
  TaskFile file;
  file.path = folder_ / "pairs.tsv";
  file.split_field = "2";
  file.prompt_template = "Say: {prompt}";
  test::write_text(file.path, "one two\tthree\ttrain\nfour\tfive\ttest\nsix\tseven\ttrain\n");
  const Task task = read_task(file, "train", tokenizer, 64);
  ASSERT_EQ(task.examples.size(), 2u);
  EXPECT_EQ(task.prompts[1], "six");
  EXPECT_EQ(task.references[0], "three");
  EXPECT_EQ(task.examples[0].prompt, tokenizer.encode("Say: one two"));
  EXPECT_EQ(task.examples[1].response, tokenizer.encode("seven"));

  for (const std::string& second : {std::string("broken"), std::string(kLongestText + 1, 'x')}) {
    test::write_text(file.path, "one\ttwo\ttrain\n" + second + "\n");
    EXPECT_NE(
        test::message_of([&] { read_task(file, "train", tokenizer, 64); }).find("pairs.tsv:2: "),
        std::string::npos);
  }
}

}  // namespace
}  // namespace demist::data
