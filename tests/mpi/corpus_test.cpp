// SPDX-License-Identifier: Apache-2.0
#include "data/corpus.hpp"

#include <gtest/gtest.h>

#include "tests/data/text_fixture.hpp"
#include "tests/support/mpi_main.hpp"

namespace demist::data {
namespace {

using test::Files;
using test::files_in;

// Rank 0 makes inputs and a tokenizer, and with them the corpus that one process builds.
class MpiCorpus : public testing::Test {
 protected:
  MpiCorpus() {
    const mpi::Comm& world = test::world();
    fs::path folder;
    if (world.rank() == 0) folder = test::fresh_folder("mpi_corpus");
    folder_ = world.broadcast(folder.string(), 0);
    build_.name = "test";
    build_.tokenizer = folder_ / "model.spm";
    build_.output = folder_ / "out";
    build_.range_bytes = 4096;
    constexpr std::size_t longest = 5000;  // a document may span ranges
    build_.inputs = {{folder_ / "b.txt", "en", {TextFormat::plain, "", longest}},
                     {folder_ / "a.jsonl", "de", {TextFormat::jsonl, "text", longest}},
                     {folder_ / "empty.txt", "fr", {}}};
    mpi::together(world, "make inputs", [&] {
      if (world.rank() == 0) make_inputs();
    });
  }
  ~MpiCorpus() override {
    test::world().barrier();
    if (test::world().rank() == 0) fs::remove_all(folder_);
  }

  void make_inputs() {
    test::train_small_tokenizer(folder_, build_.tokenizer);
    const std::string too_long(20000, 'x');
    test::write_text(folder_ / "b.txt",
                     test::make_text(300, 2) + too_long + "\n\n" + test::make_text(200, 3));
    test::write_text(folder_ / "empty.txt", "");
    std::string lines;
    for (std::uint64_t d = 0; d < 200; ++d)
      lines += "{\"text\": \"" + test::make_word(d) + " " + test::make_word(d * 7) + "\"}\n";
    test::write_text(folder_ / "a.jsonl", lines + "{\"text\": 1}\n" + too_long + "\n" + lines);
    CorpusBuild alone = build_;
    alone.output = folder_ / "reference";
    build_corpus(mpi::Comm(), alone);
    reference_ = files_in(alone.output);
  }

  fs::path folder_;
  CorpusBuild build_;
  Files reference_;  // on rank 0
};

TEST_F(MpiCorpus, AnyNumberOfRanksWritesTheSameBytes) {
  const CorpusSummary summary = build_corpus(test::world(), build_);
  EXPECT_EQ(summary.documents, 900u);
  EXPECT_EQ(summary.skipped.bad_json, 1u);
  EXPECT_EQ(summary.skipped.too_long, 2u);
  EXPECT_EQ(summary.empty_inputs, 1u);
  if (test::world().rank() == 0) {
    EXPECT_EQ(files_in(build_.output), reference_);
  }
  const CorpusSummary again = build_corpus(test::world(), build_);
  EXPECT_TRUE(again.already_done);
  EXPECT_EQ(again.tokens, summary.tokens);
}

// Left behind by a build that was killed: some finished ranges, one whose shard is lost, half a
// file.
TEST_F(MpiCorpus, AnInterruptedBuildGoesOnToTheSameBytes) {
  build_.max_invalid_fraction = 0;  // ends the first build between its shards and its manifest
  EXPECT_THROW(build_corpus(test::world(), build_), Error);
  if (test::world().rank() == 0) {
    EXPECT_FALSE(fs::exists(build_.output / "corpus.json"));
    fs::remove(build_.output / "shard-000003-0000.h5");
    fs::remove(build_.output / ".build" / "range-1.json");
    test::write_text(build_.output / "shard-000003-0000.h5.tmp", "half a shard");
  }
  test::world().barrier();
  const auto records = files_in(build_.output / ".build").size();
  test::world().barrier();
  build_.max_invalid_fraction = 0.1;
  const CorpusSummary summary = build_corpus(test::world(), build_);
  EXPECT_EQ(summary.kept_ranges, records - 1);  // all but the one whose shard is lost
  if (test::world().rank() == 0) {
    EXPECT_EQ(files_in(build_.output), reference_);
  }
}

TEST_F(MpiCorpus, OneRanksFailureReachesAll) {
  if (test::world().rank() == 0) {
    fs::create_directories(build_.output);
    // A folder where a shard should go: whoever is dealt that range fails.
    fs::create_directories(build_.output / "shard-000004-0000.h5" / "in the way");
  }
  test::world().barrier();
  const std::string message =
      test::message_of<Error>([&] { (void)build_corpus(test::world(), build_); });
  EXPECT_NE(message.find("shard-000004-0000.h5"), std::string::npos) << message;
  EXPECT_EQ(test::world().all_reduce_sum(message.empty() ? 0 : 1), test::world().size());
}

TEST_F(MpiCorpus, AMissingInputIsTheSameErrorEverywhere) {
  build_.inputs.push_back({folder_ / "absent.txt", "en", {}});
  const std::string message =
      test::message_of<Error>([&] { (void)build_corpus(test::world(), build_); });
  EXPECT_NE(message.find("absent.txt"), std::string::npos);
}

}  // namespace
}  // namespace demist::data

int main(int argc, char** argv) { return demist::test::run_mpi_tests(argc, argv); }
