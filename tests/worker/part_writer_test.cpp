// One writer for save after save: what it keeps from the last must not show in the next.
// SPDX-License-Identifier: Apache-2.0
#include "core/file.hpp"
#include "core/h5.hpp"
#include "tests/support/checkpoint_fixture.hpp"
#include "worker/checkpoint/writer.hpp"

namespace demist::checkpoint {
namespace {

using test::CheckpointTest;
using test::pieces_of;
using test::Split;
using test::State;

class PartWriterTest : public CheckpointTest {
 protected:
  // The file's bytes.
  std::string write(PartWriter& writer, State& state, const WriterId& id, Split split) {
    const fs::path folder = folder_.path() / std::to_string(++folders_);
    fs::create_directory(folder);
    const auto pieces = pieces_of(state, split, id.rank, id.ranks);
    const Part part = writer.write(folder, id, state.tensors, plan_blocks(state.tensors, pieces));
    const fs::path file = folder / part.file.name;
    EXPECT_EQ(part.file.bytes, fs::file_size(file));
    EXPECT_EQ(h5::File::open(file).read_all<std::uint64_t>("/step"),
              std::vector{static_cast<std::uint64_t>(id.step)});
    return read_file(file);
  }
  std::string write_anew(State& state, const WriterId& id, Split split) {
    PartWriter writer;
    return write(writer, state, id, split);
  }

  int folders_ = 0;
  PartWriter kept_;
};

TEST_F(PartWriterTest, TheNextSaveHasTheBytesOfAFirstOne) {
  for (const std::int64_t step : {7, 8, 1000000}) {
    const WriterId id{.rank = 1, .ranks = 2, .step = step};
    EXPECT_TRUE(write(kept_, state_, id, Split::columns) == write_anew(state_, id, Split::columns));
  }
}

TEST_F(PartWriterTest, WhatIsLaidOutOtherwiseIsLaidOutAnew) {
  State renamed = state_;
  renamed.tensors.front().name += "2";
  struct Case {
    State& state;
    WriterId id;
    Split split;
  };
  for (const auto& [state, id, split] :
       {Case{state_, {.rank = 0, .ranks = 1, .step = 1}, Split::rows},
        Case{state_, {.rank = 0, .ranks = 2, .step = 2}, Split::rows},
        Case{state_, {.rank = 1, .ranks = 2, .step = 3}, Split::rows},
        Case{state_, {.rank = 1, .ranks = 2, .step = 4}, Split::columns},
        Case{renamed, {.rank = 1, .ranks = 2, .step = 5}, Split::columns}})
    EXPECT_TRUE(write(kept_, state, id, split) == write_anew(state, id, split)) << id.step;
}

TEST_F(PartWriterTest, AWriteThatFailedIsForgotten) {
  const WriterId id{.rank = 0, .ranks = 1, .step = 9};
  const auto blocks = plan_blocks(state_.tensors, pieces_of(state_, Split::rows, 0, 1));
  const fs::path missing = folder_.path() / "missing";
  EXPECT_ANY_THROW((void)kept_.write(missing, id, state_.tensors, blocks));
  EXPECT_TRUE(write(kept_, state_, id, Split::rows) == write_anew(state_, id, Split::rows));
  EXPECT_THROW((void)kept_.write(missing, id, state_.tensors, blocks), EnvironmentError);
  EXPECT_TRUE(write(kept_, state_, id, Split::rows) == write_anew(state_, id, Split::rows));
}

}  // namespace
}  // namespace demist::checkpoint
