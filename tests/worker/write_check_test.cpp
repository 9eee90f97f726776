// What is read back while a checkpoint is written.
// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/write_check.hpp"

#include <gtest/gtest.h>

#include <fstream>

#include "core/checksum.hpp"
#include "core/error.hpp"
#include "tests/support/temporary_folder.hpp"

namespace demist::checkpoint {
namespace {

constexpr std::size_t kChunkBytes = std::size_t{1} << 20;

class WriteCheckTest : public testing::Test {
 protected:
  WriteCheckTest() {
    std::ofstream(path_).close();
    file_.emplace(path_);
    file_->reserve(kChunks * kChunkBytes);
  }
  // Chunk `i` holds bytes of its own; `damage` changes one of them behind the writer's back.
  void write(WriteCheck& check, std::size_t i, bool damage = false,
             std::size_t count = kChunkBytes) {
    const std::vector<std::byte> bytes(count, static_cast<std::byte>(i + 1));
    EXPECT_EQ(check.write(i * kChunkBytes, bytes), xxh3_64(bytes));
    if (!damage) return;
    std::fstream other(path_, std::ios::in | std::ios::out | std::ios::binary);
    other.seekp(static_cast<std::streamoff>(i * kChunkBytes + 77)).put('\0');
  }
  void expect_damage(const std::function<void()>& body) {
    try {
      body();
      ADD_FAILURE() << "damage was not noticed";
    } catch (const EnvironmentError& error) {
      EXPECT_NE(std::string(error.what()).find(path_.string() + ": reading back gives other bytes"),
                std::string::npos)
          << error.what();
    }
  }

  static constexpr std::size_t kChunks = 6;
  const test::TemporaryFolder folder_;
  const std::filesystem::path path_ = folder_.path() / "w0000.h5";
  std::optional<DataFile> file_;
  const std::stop_token never_;
};

TEST_F(WriteCheckTest, WhatWasWrittenPasses) {
  WriteCheck check(*file_, kChunkBytes, never_, 2 * kChunkBytes);
  for (std::size_t i = 0; i < kChunks; ++i) write(check, i);
  check.finish();
  check.finish();  // nothing is left
  file_->sync();
}

// Not only at the end: a save of many gigabytes should not go on over a broken disk.
TEST_F(WriteCheckTest, DamageIsFoundWhileTheRestIsWritten) {
  WriteCheck check(*file_, kChunkBytes, never_, 2 * kChunkBytes);
  write(check, 0, true);
  write(check, 1);
  expect_damage([&] { write(check, 2); });
}

TEST_F(WriteCheckTest, DamageOfTheLastChunksIsFoundAtTheEnd) {
  WriteCheck check(*file_, kChunkBytes, never_, 2 * kChunkBytes);
  write(check, 0);
  write(check, 1, true);
  expect_damage([&] { check.finish(); });
}

// Less than is worth a call to the disk, and not in rising order.
TEST_F(WriteCheckTest, SmallChunksPassAndTheirDamageIsFound) {
  for (const bool damage : {false, true}) {
    WriteCheck check(*file_, kChunkBytes, never_, kChunkBytes);
    for (const std::size_t i : {2, 1, 0}) write(check, i, damage && i == 1, 100);
    if (damage)
      expect_damage([&] { check.finish(); });
    else
      check.finish();
  }
}

TEST_F(WriteCheckTest, ASaveThatWasGivenUpIsNeitherWrittenNorRead) {
  std::stop_source stop;
  const std::stop_token token = stop.get_token();
  WriteCheck check(*file_, kChunkBytes, token, kChunkBytes);
  write(check, 0);
  stop.request_stop();
  EXPECT_THROW(write(check, 1), EnvironmentError);
  EXPECT_THROW(check.finish(), EnvironmentError);
}

}  // namespace
}  // namespace demist::checkpoint
