// SPDX-License-Identifier: Apache-2.0
#include <sys/resource.h>

#include <csignal>
#include <functional>

#include "core/checksum.hpp"
#include "core/file.hpp"
#include "core/h5.hpp"
#include "tests/support/checkpoint_fixture.hpp"
#include "worker/checkpoint/data_file.hpp"
#include "worker/checkpoint/describe.hpp"

namespace demist::checkpoint {
namespace {

using test::CheckpointTest;
using test::contains;
using test::failure;
using test::make_meta;
using test::make_state;
using test::Split;
using test::State;

TEST_F(CheckpointTest, ReturnsMetaTableAndBits) {
  const Checkpoint checkpoint(save_step(120));
  EXPECT_EQ(checkpoint.meta().step, 120);
  EXPECT_EQ(checkpoint.meta().stage, "pretrain");
  EXPECT_EQ(checkpoint.meta().model_json, make_meta(0).model_json);
  EXPECT_EQ(checkpoint.meta().state_json, make_meta(0).state_json);
  EXPECT_EQ(checkpoint.meta().recipe_hash + checkpoint.meta().tokenizer_hash +
                checkpoint.meta().data_hash,
            "r1t1d1");
  ASSERT_EQ(checkpoint.tensors().size(), state_.tensors.size());
  EXPECT_EQ(checkpoint.find("tall"), 4u);
  EXPECT_FALSE(checkpoint.find("nothing").has_value());
  EXPECT_TRUE(checkpoint.has(Kind::adam_v));
  checkpoint.verify();
  for (const Split split : test::kSplits)
    for (int ranks = 1; ranks <= 5; ++ranks)
      for (int rank = 0; rank < ranks; ++rank)
        EXPECT_EQ(difference(checkpoint, state_, split, rank, ranks), "");
  EXPECT_EQ(read_file(root() / "LATEST"), "step-00000120\n");
}

TEST_F(CheckpointTest, IsPlainHdf5) {
  const h5::File file = h5::File::open(save_step(1) / "w0000.h5");
  EXPECT_EQ(file.string_attribute("/", "format"), "demist.ckpt/1");
  const auto values = file.read_all<float>("/t/tall/adam_m");
  ASSERT_EQ(values.size(), 29u);
  EXPECT_EQ(std::memcmp(values.data(), state_.at(4, Kind::adam_m, 0), 29 * sizeof(float)), 0);
  EXPECT_EQ(file.read_all<std::int64_t>("/t/tall/adam_m.stripes"),
            (std::vector<std::int64_t>{0, 29, 0, 1}));
}

TEST_F(CheckpointTest, ParametersAloneAreAState) {
  std::vector<Piece> pieces = pieces_of(state_, Split::columns, 0, 1);
  std::erase_if(pieces, [](const Piece& piece) { return piece.kind != Kind::parameter; });
  save(mpi::Comm(), root(), state_.tensors, pieces, make_meta(3), 0);
  const Checkpoint checkpoint(root() / "step-00000003");
  checkpoint.verify();
  EXPECT_TRUE(checkpoint.has(Kind::parameter));
  EXPECT_FALSE(checkpoint.has(Kind::adam_m));
  std::vector<float> moment(1);
  EXPECT_THROW(checkpoint.read({0, Kind::adam_m, 0, moment}), CheckpointError);
}

TEST_F(CheckpointTest, ManyShortRunsAreOneStripe) {
  State state = make_state({{"wide", 100000, 3}});
  std::vector<Piece> pieces;
  for (std::int64_t row = 0; row < 100000; ++row)
    for (const std::int64_t column : {0, 2})
      pieces.push_back({0, Kind::parameter, row * 3 + column,
                        std::span<const float>(state.at(0, Kind::parameter, row * 3 + column), 1)});
  for (std::int64_t row = 0; row < 100000; ++row)
    pieces.push_back({0, Kind::parameter, row * 3 + 1,
                      std::span<const float>(state.at(0, Kind::parameter, row * 3 + 1), 1)});
  save(mpi::Comm(), root(), state.tensors, pieces, make_meta(1), 0);
  EXPECT_LT(fs::file_size(root() / "step-00000001/MANIFEST.json"), 2000u);
  const Checkpoint checkpoint(root() / "step-00000001");
  std::vector<float> values(300000);
  checkpoint.read({0, Kind::parameter, 0, values});
  EXPECT_EQ(std::memcmp(values.data(), state.at(0, Kind::parameter, 0), 1200000), 0);
}

TEST_F(CheckpointTest, HashSeesEveryBitAndTheStep) {
  const auto hash_of = [&](const std::vector<LogicalTensor>& table, std::int64_t step) {
    save(mpi::Comm(), root(), table, pieces_of(state_, Split::rows, 0, 1), make_meta(step), 0);
    return open_any(root()).hash();
  };
  const std::string first = hash_of(state_.tensors, 1);
  EXPECT_EQ(first.size(), 64u);
  EXPECT_EQ(hash_of(state_.tensors, 1), first);
  EXPECT_NE(hash_of(state_.tensors, 2), first);
  fs::remove_all(root());
  auto renamed = state_.tensors;
  renamed[3].name = "other";
  EXPECT_NE(hash_of(renamed, 1), first);
  auto reshaped = state_.tensors;
  std::swap(reshaped[4].rows, reshaped[4].cols);
  EXPECT_NE(hash_of(reshaped, 1), first);
  float* value = state_.at(5, Kind::adam_v, 100);
  *value = std::bit_cast<float>(std::bit_cast<std::uint32_t>(*value) ^ 1u);
  EXPECT_NE(hash_of(state_.tensors, 1), first);
}

TEST_F(CheckpointTest, HashIsWhatTheFormatSays) {
  State state = make_state({{"b", 1, 2}, {"a", 2, 1}});
  std::vector<Piece> pieces = pieces_of(state, Split::rows, 0, 1);
  std::erase_if(pieces, [](const Piece& piece) { return piece.kind == Kind::adam_v; });
  save(mpi::Comm(), root(), state.tensors, pieces, make_meta(9), 0);
  Sha256 sha;
  const auto add = [&](const char* head, std::size_t tensor, Kind kind) {
    sha.update(head);
    sha.update(std::as_bytes(std::span<const float>(state.at(tensor, kind, 0), 2)));
  };
  add("a\n2 1 parameter\n", 1, Kind::parameter);
  add("a\n2 1 adam_m\n", 1, Kind::adam_m);
  add("b\n1 2 parameter\n", 0, Kind::parameter);
  add("b\n1 2 adam_m\n", 0, Kind::adam_m);
  sha.update("step 9\n");
  EXPECT_EQ(open_any(root()).hash(), sha.hex());
}

TEST_F(CheckpointTest, ManifestIsSealedAsTheFormatSays) {
  const std::string text = read_file(save_step(1) / "MANIFEST.json");
  ASSERT_GT(text.size(), 44u);
  const std::string sealed = text.substr(0, text.size() - 44), seal = text.substr(sealed.size());
  const auto bytes = std::as_bytes(std::span<const char>(sealed.data(), sealed.size()));
  EXPECT_EQ(seal, ",\"xxh3\":\"" + xxh3_128_hex(bytes) + "\"}\n");
}

TEST_F(CheckpointTest, RenamedCheckpointIsNotTrustedByItsName) {
  save_step(1);
  save_step(2);
  fs::rename(root() / "step-00000001", root() / "step-00000009");
  EXPECT_EQ(open_latest(root())->meta().step, 2);
  EXPECT_EQ(open_any(root() / "step-00000009").meta().step, 1);  // named outright: as asked
}

TEST_F(CheckpointTest, LeftoversOfAKilledSaveAreReplaced) {
  fs::create_directories(root() / "step-00000007.tmp/deep");
  atomic_write(root() / "step-00000007.tmp/w0000.h5", "half a file");
  atomic_write(root() / "step-00000007.tmp/w0009.h5", "of a larger job");
  const fs::path directory = save_step(7);
  EXPECT_FALSE(fs::exists(root() / "step-00000007.tmp"));
  EXPECT_FALSE(fs::exists(directory / "w0009.h5"));
  EXPECT_EQ(failure(directory), "nothing wrong");
}

TEST_F(CheckpointTest, TheSameStepCanBeSavedAgain) {
  const std::string before = Checkpoint(save_step(7)).hash();
  // As if killed between the two renames: the old one counts until the new one is there.
  fs::rename(root() / "step-00000007", root() / "step-00000007.old");
  EXPECT_EQ(open_latest(root())->hash(), before);
  *state_.at(3, Kind::parameter, 0) = 2.0f;
  save_step(7);
  EXPECT_FALSE(fs::exists(root() / "step-00000007.old"));
  EXPECT_NE(open_latest(root())->hash(), before);
  save_step(7);
  EXPECT_EQ(failure(root() / "step-00000007"), "nothing wrong");
}

TEST_F(CheckpointTest, KeepsTheNewest) {
  const auto exists = [&](int step) {
    char name[32];
    std::snprintf(name, sizeof name, "step-%08d", step);
    return fs::exists(root() / name);
  };
  for (const int step : {1, 2, 3, 4}) save_step(step, 2);
  EXPECT_TRUE(!exists(1) && !exists(2) && exists(3) && exists(4));
  save_step(1, 1);  // the one just written is never pruned
  EXPECT_TRUE(exists(1));
  for (const int step : {5, 6, 7}) save_step(step, 0);
  EXPECT_TRUE(exists(5) && exists(6) && exists(7));
}

TEST_F(CheckpointTest, WrongPiecesLeaveNothingBehind) {
  const std::string before = Checkpoint(save_step(1)).hash();
  const auto code_of = [&](const std::function<void(std::vector<Piece>&)>& edit) {
    auto pieces = pieces_of(state_, Split::rows, 0, 1);
    edit(pieces);
    try {
      save(mpi::Comm(), root(), state_.tensors, pieces, make_meta(2), 1);
    } catch (const Error& error) {
      return error.code();
    }
    return ExitCode::done;
  };
  EXPECT_EQ(code_of([](auto& p) { p.pop_back(); }), ExitCode::internal);       // a gap
  EXPECT_EQ(code_of([](auto& p) { p.push_back(p[0]); }), ExitCode::internal);  // an overlap
  EXPECT_EQ(code_of([](auto& p) { p[0].start = 1; }), ExitCode::internal);     // past the end
  EXPECT_EQ(code_of([](auto& p) { p[0].start = -1; }), ExitCode::internal);
  EXPECT_EQ(code_of([](auto& p) { p[0].tensor = 99; }), ExitCode::internal);
  EXPECT_FALSE(fs::exists(root() / "step-00000002"));
  EXPECT_FALSE(fs::exists(root() / "step-00000002.tmp"));
  EXPECT_EQ(open_latest(root())->hash(), before);
}

TEST_F(CheckpointTest, ReadsOutsideATensorAreRefused) {
  const Checkpoint checkpoint(save_step(1));
  std::vector<float> values(14);
  EXPECT_THROW(checkpoint.read({1, Kind::parameter, 0, values}), CheckpointError);
  EXPECT_THROW(checkpoint.read({1, Kind::parameter, -1, std::span(values).first(2)}),
               CheckpointError);
  EXPECT_THROW(checkpoint.read({6, Kind::parameter, 0, values}), InternalError);
  checkpoint.read({1, Kind::parameter, 13, {}});
  checkpoint.read({2, Kind::parameter, 0, {}});
}

TEST_F(CheckpointTest, DescribesItself) {
  const std::string text = describe(Checkpoint(save_step(42)));
  EXPECT_TRUE(contains(text, "pretrain, 42 steps done"));
  EXPECT_TRUE(contains(text, "6, 1015 parameters"));
  EXPECT_TRUE(contains(text, "parameter, adam_m, adam_v"));
  EXPECT_TRUE(contains(text, "w0000.h5"));
}

// Space that runs out must not reach HDF5; a file-size limit stands for the full disk.
TEST_F(CheckpointTest, DataFileReportsWhatItCannotWrite) {
  const fs::path path = folder_.path() / "w0000.h5";
  EXPECT_THROW(DataFile{folder_.path() / "missing" / "w0000.h5"}, EnvironmentError);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{.rlim_cur = 4096, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  DataFile file(path);
  const std::vector<std::byte> bytes(8192);
  std::string message;
  try {
    file.write_at(1, bytes);
  } catch (const EnvironmentError& error) {
    message = error.what();
  }
  EXPECT_THROW(file.reserve(8192), EnvironmentError);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_TRUE(contains(message, "w0000.h5: cannot write"));
  file.write_at(1, bytes);
  file.sync();
  EXPECT_EQ(fs::file_size(path), 8193u);
}

}  // namespace
}  // namespace demist::checkpoint
