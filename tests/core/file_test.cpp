// SPDX-License-Identifier: Apache-2.0
#include "core/file.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <optional>

#include "core/error.hpp"
#include "tests/support/no_descriptors.hpp"

namespace demist {
namespace {

class FileTest : public testing::Test {
 protected:
  FileTest()
      : folder_(fs::path(testing::TempDir()) / ("demist_file_test_" + std::to_string(::getpid()))) {
    fs::create_directories(folder_);
  }
  ~FileTest() override { fs::remove_all(folder_); }
  fs::path folder_;
};

TEST_F(FileTest, AtomicWriteReplacesTheWholeAndLeavesNothingElse) {
  atomic_write(folder_ / "a", "a long first content");
  atomic_write(folder_ / "a", "short");
  EXPECT_EQ(read_file(folder_ / "a"), "short");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
  EXPECT_THROW(atomic_write(folder_ / "no folder" / "a", "x"), EnvironmentError);
  EXPECT_THROW(read_file(folder_ / "missing"), DataError);
  EXPECT_THROW(read_file(folder_), DataError);  // std::ifstream reads a folder as empty
  EXPECT_THROW(MappedFile{folder_}, DataError);
}

TEST_F(FileTest, UpdatingToTheSameContentWritesNothing) {
  update_file(folder_ / "a", "x");
  const auto long_ago = fs::file_time_type::clock::now() - std::chrono::hours(1);
  fs::last_write_time(folder_ / "a", long_ago);
  update_file(folder_ / "a", "x");
  EXPECT_EQ(fs::last_write_time(folder_ / "a"), long_ago);
  update_file(folder_ / "a", "y");
  EXPECT_EQ(read_file(folder_ / "a"), "y");
}

TEST_F(FileTest, WhatThisMachineCannotReadIsNotAWrongPath) {
  EXPECT_THROW(read_file("/proc/self/mem"), UnreadError);  // EIO: nothing is mapped at 0
  atomic_write(folder_ / "a", "x");
  EXPECT_THROW(read_file(folder_ / "a" / "b"), DataError);
  const test::NoDescriptors none;
  EXPECT_THROW(read_file(folder_ / "a"), UnreadError);
  EXPECT_THROW(MappedFile{folder_ / "a"}, UnreadError);
}

TEST(FormatBytes, ChoosesTheUnit) {
  EXPECT_EQ(format_bytes(0), "0 bytes");
  EXPECT_EQ(format_bytes(999), "999 bytes");
  EXPECT_EQ(format_bytes(1000), "1 kB");
  EXPECT_EQ(format_bytes(43210), "43.2 kB");
  EXPECT_EQ(format_bytes(999600), "1 MB");
  EXPECT_EQ(format_bytes(1250000000), "1.25 GB");
  EXPECT_EQ(format_bytes(~std::uint64_t{0}), "18.4 EB");
}

TEST_F(FileTest, ALockNamesItsHolderAndEndsWithIt) {
  std::optional<FileLock> first(std::in_place, folder_ / "lock", 0);
  try {
    const FileLock second(folder_ / "lock", 0.1);
    ADD_FAILURE() << "two locks at once";
  } catch (const EnvironmentError& error) {
    EXPECT_NE(std::string(error.what()).find("process " + std::to_string(::getpid())),
              std::string::npos)
        << error.what();
  }
  first.reset();
  EXPECT_NO_THROW(FileLock(folder_ / "lock", 0));
  EXPECT_THROW(FileLock(folder_ / "no folder" / "lock", 0), EnvironmentError);
}

TEST_F(FileTest, TheHolderOfALockIsKnownToOthers) {
  EXPECT_FALSE(lock_holder(folder_ / "lock"));
  std::optional<FileLock> lock(std::in_place, folder_ / "lock", 0);
  auto holder = lock_holder(folder_ / "lock");
  ASSERT_TRUE(holder);
  EXPECT_TRUE(holder->holds);
  EXPECT_EQ(holder->process, ::getpid());
  EXPECT_FALSE(holder->host.empty());
  EXPECT_GT(holder->since, 0);
  lock.reset();
  holder = lock_holder(folder_ / "lock");
  ASSERT_TRUE(holder);
  EXPECT_FALSE(holder->holds);
  EXPECT_EQ(holder->process, ::getpid());
}

}  // namespace
}  // namespace demist
