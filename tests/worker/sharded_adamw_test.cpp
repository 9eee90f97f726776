// What the optimizer leaves in memory that belongs to no parameter.
// SPDX-License-Identifier: Apache-2.0
#include "worker/optimizer/sharded_adamw.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "tests/support/rank_of.hpp"

namespace demist {
namespace {

// Memory that is given out holds NaN.
void spoil_heap(std::size_t bytes) {
  std::vector<Buffer<float>> blocks;
  for (int i = 0; i < 8; ++i) {
    blocks.emplace_back(bytes / sizeof(float));
    std::ranges::fill(blocks.back().span(), std::nanf(""));
  }
}

TEST(ShardedAdamW, RowsThatPadTheVocabularyAreZero) {
  ModelConfig model;
  model.layers = 1;
  model.hidden = 32;
  model.ffn = 64;
  model.heads = 4;
  model.vocab = 83;  // rank 1 of 2 has 41 of its 42 rows
  model.positions = 40;
  const auto backend = make_cpu_backend();
  ParallelGroups groups;
  groups.layout = {.tensor_size = 2, .tensor_rank = 1};
  groups.tensor = std::make_unique<test::RankOf>(1, 2);
  groups.data = make_local_communicator();
  groups.world = make_local_communicator();
  const ParameterTable table(model, 2, 1);
  ShardedAdamW optimizer(model, table, *backend, groups, DType::f32, {});
  spoil_heap(42 * 32 * sizeof(float));
  optimizer.initialize(1);
  optimizer.publish();
  const TensorView word = optimizer.weights().word;
  ASSERT_EQ(word.rows, 42);
  for (std::int64_t c = 0; c < word.cols; ++c)
    EXPECT_EQ(word.as<float>()[41 * word.ld + c], 0) << "column " << c;
  EXPECT_NE(word.as<float>()[40 * word.ld], 0);
}

}  // namespace
}  // namespace demist
