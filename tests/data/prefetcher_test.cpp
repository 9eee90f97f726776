// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "core/error.hpp"
#include "data/source.hpp"

namespace demist::data {
namespace {

// Notes how many it made; throws at one step.
class FakeSource final : public Source {
 public:
  MicroBatch make(std::int64_t step, std::int32_t index) const override {
    ++made;
    if (step == 7) throw DataError("shard 3 is damaged");
    MicroBatch batch;
    batch.step = step;
    batch.index = index;
    return batch;
  }
  std::int32_t micro_batches() const override { return 2; }
  std::int64_t max_tokens() const override { return 0; }
  std::int64_t max_targets() const override { return 0; }
  mutable std::atomic<int> made{0};
};

TEST(Prefetcher, KeepsTheAnnouncedOrder) {
  const FakeSource source;
  Prefetcher prefetcher(source, 3);
  for (std::int64_t step = 100; step > 90; --step)
    for (std::int32_t index : {1, 0}) prefetcher.announce(step, index);
  for (std::int64_t step = 100; step > 90; --step)
    for (std::int32_t index : {1, 0}) {
      const MicroBatch batch = prefetcher.take();
      EXPECT_EQ(batch.step, step);
      EXPECT_EQ(batch.index, index);
    }
}

TEST(Prefetcher, RethrowsAnErrorInItsPlaceAndGoesOn) {
  const FakeSource source;
  Prefetcher prefetcher(source, 2);
  for (std::int64_t step = 6; step < 9; ++step) prefetcher.announce(step, 0);
  EXPECT_EQ(prefetcher.take().step, 6);
  EXPECT_THROW(prefetcher.take(), DataError);
  EXPECT_EQ(prefetcher.take().step, 8);
}

TEST(Prefetcher, WorksAheadButNotBeyondItsDepth) {
  const FakeSource source;
  Prefetcher prefetcher(source, 3);
  for (std::int64_t step = 10; step < 30; ++step) prefetcher.announce(step, 0);
  while (source.made < 3) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(source.made, 3);
  prefetcher.take();
  while (source.made < 4) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(source.made, 4);
}

TEST(Prefetcher, TakingMoreThanAnnouncedIsAnErrorNotAHang) {
  const FakeSource source;
  Prefetcher prefetcher(source, 1);
  EXPECT_THROW(prefetcher.take(), InternalError);
  prefetcher.announce(1, 0);
  prefetcher.take();
  EXPECT_THROW(prefetcher.take(), InternalError);
  EXPECT_THROW(Prefetcher(source, 0), InternalError);
}

TEST(Prefetcher, StopsCleanlyWithWorkLeft) {
  const FakeSource source;
  for (int round = 0; round < 50; ++round) {
    Prefetcher prefetcher(source, 2);
    for (std::int64_t step = 0; step < round % 5; ++step) prefetcher.announce(step, 0);
  }
}

}  // namespace
}  // namespace demist::data
