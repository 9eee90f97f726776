// SPDX-License-Identifier: Apache-2.0
#include "data/packed_source.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>
#include <thread>

#include "core/error.hpp"
#include "data/block_order.hpp"
#include "tests/data/batches.hpp"
#include "tests/data/memory_store.hpp"

namespace demist::data {
namespace {

constexpr std::int32_t kVocab = 1000000, kMask = kVocab - 1;

// Two shards of language 0 (20 and 11 blocks of 7 tokens, each with a tail), one of language 1 (9).
std::unique_ptr<MemoryStore> small_store() {
  std::vector<MemoryShard> shards(3);
  shards[0].add(50, 0).add(60, 0).add(33, 0);
  shards[1].add(64, 1);
  shards[2].add(80, 0);
  return std::make_unique<MemoryStore>(std::move(shards), 2);
}

PackedOptions small_options() {
  PackedOptions options;
  options.batch = {.micro_batches = 2, .max_tokens = 40, .sequence_length = 8};
  options.window_blocks = 4;
  options.seed = 5;
  options.mask_id = kMask;
  options.vocab_size = kVocab;
  return options;
}

std::unique_ptr<Source> small_source(const PackedOptions& options) {
  return make_packed_source(small_store(), options);
}

TEST(PackedSource, BlocksAreContiguousTokensAfterBos) {
  const auto source = small_source(small_options());
  const MicroBatch batch = source->make(0, 0);
  EXPECT_EQ(batch.rows, 5);
  EXPECT_EQ(batch.cols, 8);
  EXPECT_EQ(batch.real_tokens, 40);
  const auto ids = clean_ids(batch);
  for (std::size_t row = 0; row < 5; ++row) {
    EXPECT_EQ(ids[row * 8], 0);
    const std::int32_t first = ids[row * 8 + 1] - MemoryStore::kFirstToken;
    EXPECT_EQ(first % MemoryStore::kShardStride % 7, 0);  // blocks tile the shard
    for (std::size_t c = 0; c < 8; ++c) {
      EXPECT_TRUE(c < 2 || ids[row * 8 + c] == ids[row * 8 + c - 1] + 1);
      EXPECT_EQ(batch.positions[row * 8 + c], static_cast<std::int32_t>(c) + 2);
      EXPECT_EQ(batch.key_begin[row * 8 + c], 0);
      EXPECT_EQ(batch.key_end[row * 8 + c], 8);
    }
    EXPECT_EQ(batch.sample[row], row);
  }
}

TEST(PackedSource, AnEpochHoldsEveryBlockOnceAndTheNextInAnotherOrder) {
  const auto source = small_source(small_options());
  // 40 blocks, 10 a step: 4 steps an epoch.
  std::vector<std::vector<std::int32_t>> order(2);
  for (std::int64_t step = 0; step < 8; ++step)
    for (std::int32_t index = 0; index < 2; ++index) {
      const auto ids = clean_ids(source->make(step, index));
      for (std::size_t row = 0; row < 5; ++row)
        order[static_cast<std::size_t>(step / 4)].push_back(ids[row * 8 + 1]);
    }
  std::set<std::int32_t> all;
  for (const auto& [shard, blocks] : {std::pair{0u, 20}, {1u, 9}, {2u, 11}})
    for (int b = 0; b < blocks; ++b)
      all.insert(MemoryStore::token(shard, static_cast<std::uint64_t>(b) * 7));
  for (const auto& epoch : order)
    EXPECT_EQ(std::set<std::int32_t>(epoch.begin(), epoch.end()), all);
  EXPECT_NE(order[0], order[1]);
}

TEST(PackedSource, MasksDifferBetweenEpochs) {
  PackedOptions options = small_options();
  options.batch.sequence_length = 65;  // 1 block of language 1, 2 of shard 0, 1 of shard 2
  options.batch.max_tokens = 65 * 4;
  options.batch.micro_batches = 1;
  const auto source = small_source(options);
  // The same block's masked columns in epochs 0 and 1.
  std::map<std::int32_t, std::vector<std::set<std::int32_t>>> masks;
  for (std::int64_t epoch = 0; epoch < 2; ++epoch) {
    const MicroBatch batch = source->make(epoch, 0);
    const auto ids = clean_ids(batch);
    for (std::int32_t row = 0; row < 4; ++row) {
      auto& sets = masks[ids[static_cast<std::size_t>(row) * 65 + 1]];
      sets.emplace_back();
      for (const auto token : batch.target_row)
        if (token / 65 == row) sets.back().insert(token % 65);
    }
  }
  ASSERT_EQ(masks.size(), 4u);
  for (const auto& [block, sets] : masks) {
    ASSERT_EQ(sets.size(), 2u);
    EXPECT_NE(sets[0], sets[1]);
  }
}

TEST(PackedSource, IsAPureFunctionOfStepAndIndex) {
  for (const bool rdm : {false, true}) {
    PackedOptions options = small_options();
    if (rdm) options.noise = RdmNoise{};
    const auto one = small_source(options), two = small_source(options);
    std::vector<MicroBatch> forward;
    for (std::int64_t step = 0; step < 10; ++step)
      for (std::int32_t index = 0; index < 2; ++index) forward.push_back(one->make(step, index));
    // Another instance, backwards, from four threads at once.
    std::vector<MicroBatch> backward(20);
    std::vector<std::thread> threads;
    for (std::size_t t = 0; t < 4; ++t)
      threads.emplace_back([&, t] {
        for (std::size_t i = 20; i-- > 0;)
          if (i % 4 == t)
            backward[i] = two->make(static_cast<std::int64_t>(i / 2), static_cast<int>(i % 2));
      });
    for (auto& thread : threads) thread.join();
    for (std::size_t i = 0; i < 20; ++i) expect_equal(forward[i], backward[i]);
    options.seed = 6;
    EXPECT_NE(small_source(options)->make(0, 0).ids, forward[0].ids);
    options.seed = 5;
    options.stream = "other";
    EXPECT_NE(small_source(options)->make(0, 0).ids, forward[0].ids);
  }
}

TEST(PackedSource, ChangingMicroBatchesOnlyCutsTheSameSamplesDifferently) {
  PackedOptions options = small_options();
  const auto two = small_source(options);
  options.batch.micro_batches = 1;
  options.batch.max_tokens = 80;
  const auto one = small_source(options);
  auto first = two->make(1, 0).sample;
  const auto second = two->make(1, 1).sample;
  first.insert(first.end(), second.begin(), second.end());
  EXPECT_EQ(one->make(1, 0).sample, first);
}

TEST(PackedSource, DocumentMasksRestartAtBorders) {
  std::vector<MemoryShard> shards(1);
  shards[0].add(3, 0).add(0, 0).add(4, 0).add(14, 0);  // borders at 3, 3, 7: block 0 holds 3 + 4
  PackedOptions options = small_options();
  options.batch = {.micro_batches = 1, .max_tokens = 24, .sequence_length = 8};
  options.document_mask = true;
  const auto source =
      make_packed_source(std::make_unique<MemoryStore>(std::move(shards), 1), options);
  const MicroBatch batch = source->make(0, 0);
  const auto ids = clean_ids(batch);
  for (std::size_t row = 0; row < 3; ++row) {
    const auto at = [&](const std::vector<std::int32_t>& plane) {
      return std::vector<std::int32_t>(plane.begin() + static_cast<std::ptrdiff_t>(row * 8),
                                       plane.begin() + static_cast<std::ptrdiff_t>(row * 8 + 8));
    };
    using Columns = std::vector<std::int32_t>;
    if (ids[row * 8 + 1] == MemoryStore::kFirstToken) {  // <s> goes with the first document
      EXPECT_EQ(at(batch.positions), (Columns{2, 3, 4, 5, 2, 3, 4, 5}));
      EXPECT_EQ(at(batch.key_begin), (Columns{0, 0, 0, 0, 4, 4, 4, 4}));
      EXPECT_EQ(at(batch.key_end), (Columns{4, 4, 4, 4, 8, 8, 8, 8}));
    } else {  // inside the third document, or exactly at its start
      EXPECT_EQ(at(batch.positions), (Columns{2, 3, 4, 5, 6, 7, 8, 9}));
      EXPECT_EQ(at(batch.key_begin), Columns(8, 0));
      EXPECT_EQ(at(batch.key_end), Columns(8, 8));
    }
  }
}

TEST(PackedSource, CoupledDiffusionMakesTwoCopiesOfEachBlock) {
  PackedOptions options = small_options();
  options.noise = RdmNoise{};
  const auto source = small_source(options);
  EXPECT_EQ(source->max_tokens(), 32);  // 40 / 8 = 5 rows hold two pairs
  std::set<std::uint64_t> names;
  for (std::int64_t step = 0; step < 5; ++step)
    for (std::int32_t index = 0; index < 2; ++index) {
      const MicroBatch batch = source->make(step, index);
      ASSERT_EQ(batch.rows, 4);
      const auto ids = clean_ids(batch);
      for (std::size_t c = 0; c < 8; ++c) {
        EXPECT_EQ(ids[c], ids[8 + c]);
        EXPECT_EQ(ids[16 + c], ids[24 + c]);
      }
      for (const auto token : batch.target_row) EXPECT_NE(token % 8, 0);  // never <s>
      names.insert(batch.sample.begin(), batch.sample.end());
      EXPECT_EQ(batch.sample[1], batch.sample[0] + 1);
      EXPECT_EQ(batch.normalizer, 1);
    }
  EXPECT_EQ(names.size(), 40u);
  EXPECT_EQ(*names.rbegin(), 39u);
}

TEST(PackedSource, TimesAreStratifiedOverTheWholeStep) {
  PackedOptions options = small_options();
  // T = 10 and 10 samples in 2 micro-batches, one response token weight T - t + 1 over N = 7.
  options.noise = RdmNoise{.steps = 10, .coupled = false};
  const auto source = small_source(options);
  // Targets of a row share one time; a row may have none, so times over many steps are collected.
  for (std::int64_t step = 0; step < 20; ++step) {
    std::set<int> times;
    std::size_t rows_with_targets = 0;
    for (std::int32_t index = 0; index < 2; ++index) {
      const MicroBatch batch = source->make(step, index);
      std::map<std::int32_t, int> by_row;
      for (std::size_t t = 0; t < batch.target_row.size(); ++t)
        by_row[batch.target_row[t] / 8] =
            11 - static_cast<int>(std::lround(batch.weight[t] * 7 * 5));
      rows_with_targets += by_row.size();
      for (const auto& [row, time] : by_row) times.insert(time);
    }
    EXPECT_EQ(times.size(), rows_with_targets) << "a time came twice in step " << step;
  }
}

TEST(PackedSource, BoundsHold) {
  for (const bool rdm : {false, true}) {
    PackedOptions options = small_options();
    if (rdm) options.noise = RdmNoise{.steps = 1};  // masks everything
    const auto source = small_source(options);
    std::size_t most = 0;
    for (std::int64_t step = 0; step < 40; ++step) {
      const MicroBatch batch = source->make(step, 1);
      EXPECT_EQ(batch.rows * batch.cols, source->max_tokens());
      most = std::max(most, batch.target_row.size());
    }
    EXPECT_LE(static_cast<std::int64_t>(most), source->max_targets());
    EXPECT_TRUE(!rdm || static_cast<std::int64_t>(most) == source->max_targets());
  }
}

TEST(PackedSource, BadOptionsAreOneClearError) {
  const auto refuse = [](auto change) {
    PackedOptions options = small_options();
    change(options);
    EXPECT_THROW(small_source(options), ConfigError);
  };
  refuse([](PackedOptions& o) { o.batch.sequence_length = 1; });
  refuse([](PackedOptions& o) { o.batch.micro_batches = 0; });
  refuse([](PackedOptions& o) { o.batch.max_tokens = 7; });
  refuse([](PackedOptions& o) { o.noise = RdmNoise{}, o.batch.max_tokens = 15; });
  refuse([](PackedOptions& o) { o.language_alpha = -0.1; });
  refuse([](PackedOptions& o) { o.window_blocks = 0; });
  refuse([](PackedOptions& o) { o.mask_id = kVocab; });
  PackedOptions options = small_options();
  options.batch.sequence_length = options.batch.max_tokens = 500;
  EXPECT_THROW(small_source(options), DataError);  // no shard holds a block
}

TEST(BlockIndex, MixedShardsGiveEachBlockTheLanguageOfItsFirstToken) {
  std::vector<MemoryShard> shards(2);
  shards[0].add(5, 0).add(5, 1).add(10, 0).add(10, 1).add(3, 0);  // 33 tokens
  shards[1].add(12, 1);
  const MemoryStore store(std::move(shards), 3);
  const BlockIndex index(store, 4);
  // Blocks of shard 0 start at 0 4 8 12 16 20 24 28; languages 0 0 1 0 0 1 1 1. Shard 1: 1 1 1.
  EXPECT_EQ(index.counts(), (std::vector<std::uint64_t>{4, 7, 0}));
  const auto begins = [&](std::size_t language) {
    std::vector<std::pair<std::size_t, std::uint64_t>> found;
    for (std::uint64_t k = 0; k < index.counts()[language]; ++k)
      found.emplace_back(index.place(language, k).shard, index.place(language, k).begin);
    return found;
  };
  using Places = std::vector<std::pair<std::size_t, std::uint64_t>>;
  EXPECT_EQ(begins(0), (Places{{0, 0}, {0, 4}, {0, 12}, {0, 16}}));
  EXPECT_EQ(begins(1), (Places{{0, 8}, {0, 20}, {0, 24}, {0, 28}, {1, 0}, {1, 4}, {1, 8}}));
}

TEST(LanguageDraws, FollowThePowerOfTheShares) {
  EXPECT_EQ(language_draws({900, 100, 0}, 1.0), (std::vector<std::uint64_t>{900, 100, 0}));
  EXPECT_EQ(language_draws({900, 100, 0}, 0.0), (std::vector<std::uint64_t>{500, 500, 0}));
  // 0.9^0.3 = 0.96889, 0.1^0.3 = 0.50119: shares 0.65908 and 0.34092.
  EXPECT_EQ(language_draws({900, 100}, 0.3), (std::vector<std::uint64_t>{659, 341}));
  EXPECT_EQ(language_draws({1000000, 1}, 1.0)[1], 1u);
}

TEST(BlockOrder, UpsampledLanguagesGoThroughWholePasses) {
  const std::vector<std::uint64_t> blocks{900, 100};
  const BlockOrder order(blocks,
                         {.language_alpha = 0.3, .window_blocks = 16, .seed = 1, .stream = "s"});
  ASSERT_EQ(order.epoch_size(), 1000u);
  std::vector<std::vector<std::uint64_t>> drawn(2);
  for (std::uint64_t i = 0; i < 3000; ++i) {
    const auto [language, number] = order(i);
    drawn[language].push_back(number);
    if (i == 999) {
      EXPECT_EQ(drawn[0].size(), 659u);
      EXPECT_EQ(drawn[1].size(), 341u);
    }
    // Any stretch holds the languages in proportion.
    EXPECT_NEAR(static_cast<double>(drawn[1].size()), 0.341 * static_cast<double>(i + 1), 1.0);
  }
  for (std::size_t language = 0; language < 2; ++language)
    for (std::size_t pass = 0; (pass + 1) * blocks[language] <= drawn[language].size(); ++pass) {
      const auto begin =
          drawn[language].begin() + static_cast<std::ptrdiff_t>(pass * blocks[language]);
      const std::set<std::uint64_t> seen(begin,
                                         begin + static_cast<std::ptrdiff_t>(blocks[language]));
      EXPECT_EQ(seen.size(), blocks[language]) << "language " << language << " pass " << pass;
    }
  EXPECT_FALSE(std::equal(drawn[1].begin(), drawn[1].begin() + 100, drawn[1].begin() + 100));
}

}  // namespace
}  // namespace demist::data
