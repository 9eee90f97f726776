// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/resource.h>

#include "core/file.hpp"
#include "core/h5.hpp"
#include "tests/support/checkpoint_state.hpp"
#include "tests/support/flip_byte.hpp"
#include "tests/support/mpi_main.hpp"
#include "tests/support/shared_folder.hpp"

namespace demist::checkpoint {
namespace {

using test::flip_byte;
using test::make_meta;
using test::make_state;
using test::SharedFolder;
using test::Split;
using test::State;
using test::world;

// Full chunks and a cut one; rows that end inside a chunk.
State large_state() { return make_state({{"large", 1100, 1000}, {"bias", 1, 1000}}, 7); }

void save_split(State& state, const fs::path& root, Split split, std::int64_t step) {
  const auto pieces = pieces_of(state, split, world().rank(), world().size());
  save(world(), root, state.tensors, pieces, make_meta(step), 0);
}

std::string hash_of_one_writer(State& state) {
  const test::TemporaryFolder folder;
  save(mpi::Comm(), folder.path(), state.tensors, pieces_of(state, Split::rows, 0, 1), make_meta(3),
       0);
  return open_any(folder.path()).hash();
}

TEST(CheckpointRanks, AnyLayoutReadsAnyOther) {
  const SharedFolder folder;
  State state = make_state(test::small_table());
  const std::string hash = hash_of_one_writer(state);
  for (const Split written : test::kSplits) {
    save_split(state, folder.path(), written, 3);
    const Checkpoint checkpoint = open_any(folder.path());
    checkpoint.verify();
    EXPECT_EQ(checkpoint.hash(), hash);
    EXPECT_EQ(checkpoint.files().size(), static_cast<std::size_t>(world().size()));
    for (const Split read : test::kSplits)
      for (int ranks = 1; ranks <= 5; ++ranks)
        for (int rank = 0; rank < ranks; ++rank)
          ASSERT_EQ(difference(checkpoint, state, read, rank, ranks), "")
              << "written " << static_cast<int>(written) << ", read " << static_cast<int>(read)
              << " by " << rank << " of " << ranks;
    world().barrier();  // nobody replaces what another still reads
  }
}

TEST(CheckpointRanks, LargeTensorsCrossChunks) {
  const SharedFolder folder;
  State state = large_state();
  const std::string hash = hash_of_one_writer(state);
  for (const Split written : {Split::columns, Split::flat}) {
    save_split(state, folder.path(), written, 3);
    const Checkpoint checkpoint = open_any(folder.path());
    EXPECT_EQ(checkpoint.hash(), hash);
    const int next = (world().rank() + 1) % world().size();
    EXPECT_EQ(difference(checkpoint, state, Split::rows, next, world().size()), "");
    EXPECT_EQ(difference(checkpoint, state, Split::columns, next % 3, 3), "");
    world().barrier();
  }
}

TEST(CheckpointRanks, RanksWithoutPiecesWriteNoFile) {
  const SharedFolder folder;
  State state = make_state(test::small_table());
  const bool last = world().rank() == world().size() - 1;
  const auto pieces = last ? pieces_of(state, Split::rows, 0, 1) : std::vector<checkpoint::Piece>();
  save(world(), folder.path(), state.tensors, pieces, make_meta(1), 0);
  const Checkpoint checkpoint = open_any(folder.path());
  ASSERT_EQ(checkpoint.files().size(), 1u);
  EXPECT_EQ(checkpoint.files()[0].name, "w000" + std::to_string(world().size() - 1) + ".h5");
  EXPECT_EQ(difference(checkpoint, state, Split::flat, 0, 1), "");
}

// Each rank reads a share: damage anywhere must be found by one of them, and heeded by all.
TEST(CheckpointRanks, TheLatestIsVerifiedByAllTogether) {
  const SharedFolder folder;
  State state = large_state();
  for (const std::int64_t step : {1, 2}) save_split(state, folder.path(), Split::flat, step);
  const auto latest = [&] { return open_latest(folder.path(), world())->meta().step; };
  const auto on_first = [&](const auto& body) {
    world().barrier();
    if (world().rank() == 0) body();
    world().barrier();
  };
  EXPECT_EQ(latest(), 2);
  const Checkpoint newest = open_step(folder.path(), 2);
  for (const StoredFile& stored : newest.files()) {
    const fs::path file = newest.directory() / stored.name;
    const h5::File tables = h5::File::open(file);
    for (const char* name : {"large/parameter", "large/adam_v", "bias/adam_v"}) {
      if (!tables.exists(std::string("t/") + name)) continue;
      const h5::Extent extent = tables.extent(std::string("/t/") + name);
      for (const std::uint64_t at : {extent.offset, extent.offset + extent.bytes - 1}) {
        on_first([&] { flip_byte(file, at); });
        EXPECT_EQ(latest(), 1) << stored.name << " " << name << " at " << at;
        on_first([&] { flip_byte(file, at); });
        EXPECT_EQ(latest(), 2);
      }
    }
  }
  on_first([&] {
    for (const char* step : {"step-00000001", "step-00000002"})
      fs::remove(folder.path() / step / "MANIFEST.json");
  });
  const mpi::Outcome none = mpi::attempt([&] { open_latest(folder.path(), world()); });
  EXPECT_EQ(none.code, ExitCode::checkpoint) << none.message;
  EXPECT_EQ(none.agreed, world().size() > 1);
}

// A good step 1, then a save of step 2 that must fail on every rank in the same words.
class FailingSave : public testing::Test {
 protected:
  FailingSave() { save_split(state_, folder_.path(), Split::flat, 1); }

  void expect_failure(std::span<const Piece> pieces, const Meta& meta, ExitCode code,
                      const std::string& words) {
    std::string message;
    try {
      save(world(), folder_.path(), state_.tensors, pieces, meta, 1);
    } catch (const Error& error) {
      message = error.what();
      EXPECT_EQ(error.code(), code) << message;
    }
    EXPECT_NE(message.find(words), std::string::npos) << message;
    EXPECT_EQ(message, world().broadcast(message, 0));
    world().barrier();
    EXPECT_FALSE(fs::exists(folder_.path() / "step-00000002"));
    EXPECT_FALSE(fs::exists(folder_.path() / "step-00000002.tmp"));
    const auto latest = open_latest(folder_.path());
    ASSERT_TRUE(latest.has_value());
    EXPECT_EQ(latest->meta().step, 1);
  }
  bool last() const { return world().rank() == world().size() - 1; }
  std::vector<Piece> pieces(Split split) {
    return pieces_of(state_, split, world().rank(), world().size());
  }

  SharedFolder folder_;
  State state_ = large_state();
};

TEST_F(FailingSave, OneRankHoldsAWrongPiece) {
  auto mine = pieces(Split::flat);
  if (last()) mine.back().start += 1;
  expect_failure(mine, make_meta(2), ExitCode::internal, "lies outside 'bias'");
}

TEST_F(FailingSave, OneRankLacksAPiece) {
  auto mine = pieces(Split::columns);
  if (last()) mine.pop_back();
  expect_failure(mine, make_meta(2), ExitCode::internal, "tensor 'bias' (adam_v): elements [");
}

TEST_F(FailingSave, TwoRanksHoldTheSamePiece) {
  if (world().size() == 1) GTEST_SKIP() << "needs two ranks";
  auto mine = pieces(Split::flat);
  if (world().rank() == 1) {
    State& s = state_;
    mine.push_back({0, Kind::parameter, 0, std::span<const float>(s.at(0, Kind::parameter, 0), 3)});
  }
  expect_failure(mine, make_meta(2), ExitCode::internal, "stored twice");
}

TEST_F(FailingSave, RanksDisagreeOnMeta) {
  if (world().size() == 1) GTEST_SKIP() << "needs two ranks";
  Meta meta = make_meta(2);
  if (last()) meta.state_json = "{}";
  expect_failure(pieces(Split::flat), meta, ExitCode::internal, "disagree");
}

// Writing fails on one rank only: it has no file descriptor left.
TEST_F(FailingSave, OneRankCannotWrite) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{.rlim_cur = 3, .rlim_max = before.rlim_max};
  const auto mine = pieces(Split::flat);
  std::string message;
  if (last()) {
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  }
  try {
    save(world(), folder_.path(), state_.tensors, mine, make_meta(2), 1);
  } catch (const Error& error) {
    message = error.what();
  }
  if (last()) {
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  }
  EXPECT_NE(message, "");
  EXPECT_EQ(message, world().broadcast(message, 0));
  EXPECT_EQ(open_latest(folder_.path())->meta().step, 1);
  save_split(state_, folder_.path(), Split::flat, 2);  // and the next attempt succeeds
  EXPECT_EQ(open_latest(folder_.path())->meta().step, 2);
}

TEST(CheckpointRanks, RootThatIsAFileFailsOnAllRanks) {
  const SharedFolder folder;
  State state = make_state(test::small_table());
  if (world().rank() == 0) atomic_write(folder.path() / "root", "a file");
  const auto pieces = pieces_of(state, Split::rows, world().rank(), world().size());
  EXPECT_THROW(save(world(), folder.path() / "root", state.tensors, pieces, make_meta(1), 0),
               Error);
}

}  // namespace
}  // namespace demist::checkpoint

int main(int argc, char** argv) { return demist::test::run_mpi_tests(argc, argv); }
