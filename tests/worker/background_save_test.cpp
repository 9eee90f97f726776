// Saves that meet a kill, a full disk or a folder that cannot be written. What ends a process, or
// changes its rights, happens in a child.
// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/background_save.hpp"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <functional>
#include <thread>

#include "core/file.hpp"
#include "tests/support/checkpoint_state.hpp"
#include "tests/support/held_up.hpp"
#include "tests/support/temporary_folder.hpp"
#include "worker/checkpoint/catalog.hpp"
#include "worker/checkpoint/roll_back.hpp"
#include "worker/checkpoint/survey.hpp"

namespace demist::checkpoint {
namespace {

using test::SavePhase;

constexpr int kCannotTry = 77;  // exit code of a child that lacks the rights

// Runs body in a child process and returns its wait status. A child that throws ends with 1.
int in_child(const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    int code = 1;
    try {
      code = body();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "child: %s\n", error.what());
    }
    std::exit(code);  // and HDF5 and whoever else ends in an orderly way
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  return status;
}

class SaveUnderFire : public testing::Test {
 protected:
  mpi::Outcome save(std::int64_t step, const BackgroundSave::Hook& hook = {}) {
    BackgroundSave saver(mpi::Comm(), root(), {.last = 1}, hook);
    saver.begin([&](Snapshot& snapshot) {
      snapshot.tensors = state_.tensors;
      snapshot.pieces = pieces_of(state_, test::Split::rows, 0, 1);
      snapshot.meta = test::make_meta(step);
    });
    return saver.finish()->outcome;
  }
  std::int64_t newest() const {
    const auto latest = open_latest(root());
    return latest ? latest->meta().step : 0;
  }
  std::size_t entries() const {
    return static_cast<std::size_t>(
        std::distance(fs::directory_iterator(root()), fs::directory_iterator()));
  }
  fs::path root() const { return folder_.path() / "checkpoints"; }

  const test::TemporaryFolder folder_;
  test::State state_ = test::make_state({{"large", 300, 1000}, {"bias", 1, 1000}});
};

TEST_F(SaveUnderFire, KilledInAnyPhaseLeavesAGoodOneAndNoHalfOne) {
  ASSERT_EQ(save(1).message, "");
  std::int64_t step = 2;
  for (const SavePhase fatal :
       {SavePhase::prepare, SavePhase::write, SavePhase::publish, SavePhase::tidy}) {
    const int status = in_child([&] {
      save(step, [&](SavePhase phase) {
        if (phase == fatal) std::raise(SIGKILL);
      });
      return 0;
    });
    EXPECT_TRUE(WIFSIGNALED(status));
    EXPECT_EQ(newest(), fatal == SavePhase::tidy ? step : 1);
    for (const Surveyed& found : survey(root(), {})) EXPECT_EQ(found.problem, "");
    ++step;
  }
  EXPECT_EQ(save(step).message, "");  // goes on as if nothing had been
  EXPECT_EQ(newest(), step);
  EXPECT_EQ(entries(), 2u);  // it and LATEST
}

TEST_F(SaveUnderFire, KilledAtAnyMomentLeavesAGoodOne) {
  ASSERT_EQ(save(1).message, "");
  for (int delay = 0; delay < 12; ++delay) {
    const std::int64_t before = newest();
    in_child([&] {
      const std::jthread killer([delay] {
        std::this_thread::sleep_for(std::chrono::milliseconds(delay));
        std::raise(SIGKILL);
      });
      for (std::int64_t step = before + 1;; ++step) save(step);
      return 0;
    });
    EXPECT_GE(newest(), before);
    ASSERT_GE(newest(), 1);
  }
  EXPECT_EQ(save(newest() + 1).message, "");
  EXPECT_EQ(entries(), 2u);
}

// A disk of a few megabytes that only this process sees.
bool mount_small_disk(const fs::path& folder) {
  fs::create_directories(folder);
  const uid_t uid = ::getuid();
  if (::unshare(CLONE_NEWNS) != 0) {
    if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return false;
    std::ofstream("/proc/self/uid_map") << "0 " << uid << " 1";
  }
  return ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         ::mount("none", folder.c_str(), "tmpfs", 0, "size=16m") == 0;
}

// Takes all of the disk's room.
void fill_disk(const fs::path& folder) {
  std::ofstream ballast(folder / "ballast", std::ios::binary);
  const std::string block(4096, 'x');
  while (ballast.write(block.data(), 4096).flush()) {
  }
}

// The check beforehand sees the full disk; or the disk fills up after it, before a phase.
TEST_F(SaveUnderFire, AFullDiskLeavesTheLastGoodOne) {
  const int status = in_child([&] {
    if (!mount_small_disk(root())) return kCannotTry;
    std::int64_t step = 1;
    int wrong = save(step).message.empty() ? 0 : 2;
    for (const SavePhase full_at : {SavePhase::prepare, SavePhase::write, SavePhase::publish}) {
      const mpi::Outcome outcome = save(step + 1, [&](SavePhase phase) {
        if (phase == full_at) fill_disk(root());
      });
      if (outcome.code != ExitCode::environment) wrong |= 4;
      if (newest() != step) wrong |= 8;
      if (fs::exists(root() / (directory_name(step + 1) + ".tmp"))) wrong |= 16;
      fs::remove(root() / "ballast");
      if (!save(++step).message.empty() || newest() != step) wrong |= 32;
    }
    return wrong;
  });
  if (WIFEXITED(status) && WEXITSTATUS(status) == kCannotTry)
    GTEST_SKIP() << "a small disk cannot be mounted here";
  EXPECT_TRUE(WIFEXITED(status)) << "status " << status;
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST_F(SaveUnderFire, AFileSizeLimitLeavesTheLastGoodOne) {
  ASSERT_EQ(save(1).message, "");
  const int status = in_child([&] {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit small{.rlim_cur = 100'000, .rlim_max = RLIM_INFINITY};
    ::setrlimit(RLIMIT_FSIZE, &small);
    const mpi::Outcome outcome = save(2);
    return outcome.code == ExitCode::environment ? 0 : 1;
  });
  EXPECT_EQ(status, 0);
  EXPECT_EQ(newest(), 1);
  EXPECT_EQ(save(2).message, "");
}

// A checkpoint of which a part cannot be removed, whoever tries as `as_anybody`.
void hold(const fs::path& folder, const fs::path& root, const fs::path& checkpoint) {
  fs::create_directories(checkpoint / "held");
  std::ofstream(checkpoint / "held" / "file") << "x";
  fs::permissions(folder, fs::perms(0755));
  for (const fs::path& open : {root, checkpoint}) fs::permissions(open, fs::perms(0777));
  fs::permissions(checkpoint / "held", fs::perms(0555));
}
bool as_anybody() { return ::geteuid() != 0 || ::setuid(65534) == 0; }  // root may remove anything

TEST_F(SaveUnderFire, ASaveStandsThoughWhatItReplacesStays) {
  ASSERT_EQ(save(1).message, "");
  const fs::path held = root() / directory_name(1);
  hold(folder_.path(), root(), held);
  fs::permissions(root() / "LATEST", fs::perms(0666));
  const int status = in_child([&] {
    if (!as_anybody()) return kCannotTry;
    return save(1).message.empty() ? 0 : 1;
  });
  if (WIFEXITED(status) && WEXITSTATUS(status) == kCannotTry) GTEST_SKIP() << "rights stay";
  EXPECT_EQ(status, 0);
  EXPECT_EQ(newest(), 1);
  const fs::path old = held.string() + ".old.tmp";  // it was tried once more, as a leftover
  EXPECT_TRUE(fs::exists(old / "held"));
  fs::permissions(old / "held", fs::perms(0755));
  remove_leftovers(root());
  EXPECT_FALSE(fs::exists(old));
}

TEST_F(SaveUnderFire, AWayBackThatIsCutShortLeavesNoCheckpointWithHoles) {
  ASSERT_EQ(save(1).message, "");
  const fs::path first = root() / directory_name(1), second = root() / directory_name(2);
  fs::rename(first, folder_.path() / "kept");  // a save would prune it
  ASSERT_EQ(save(2).message, "");
  fs::rename(folder_.path() / "kept", first);
  hold(folder_.path(), root(), second);
  const int status = in_child([&] {
    if (!as_anybody()) return kCannotTry;
    (void)mpi::attempt([&] { (void)roll_back(mpi::Comm(), root(), 1); });
    return 0;
  });
  if (WIFEXITED(status) && WEXITSTATUS(status) == kCannotTry) GTEST_SKIP() << "rights stay";
  EXPECT_EQ(status, 0);
  EXPECT_FALSE(fs::exists(second));
  const fs::path leftover = second.string() + ".tmp";
  ASSERT_TRUE(fs::exists(leftover / "held"));
  fs::permissions(leftover / "held", fs::perms(0755));
  EXPECT_EQ(newest(), 1);
}

// Its save failed, on a full disk perhaps.
TEST_F(SaveUnderFire, AWayBackToWhatWasNeverSavedStartsFromBefore) {
  for (const int step : {1, 2, 4}) {
    ASSERT_EQ(save(step).message, "");
    fs::rename(root() / directory_name(step), folder_.path() / directory_name(step));
  }
  for (const int step : {1, 2, 4})
    fs::rename(folder_.path() / directory_name(step), root() / directory_name(step));
  const auto outcome = mpi::attempt([&] { (void)roll_back(mpi::Comm(), root(), 3); });
  EXPECT_EQ(outcome.code, ExitCode::environment);
  EXPECT_NE(outcome.message.find("it is made again from step 2"), std::string::npos)
      << outcome.message;
  EXPECT_EQ(newest(), 2);
  EXPECT_FALSE(fs::exists(root() / directory_name(4)));
  // Without any older one nothing is removed.
  EXPECT_EQ(mpi::attempt([&] { (void)roll_back(mpi::Comm(), root(), 1); }).code, ExitCode::done);
  fs::rename(root() / directory_name(1), root() / directory_name(7));
  EXPECT_EQ(mpi::attempt([&] { (void)roll_back(mpi::Comm(), root(), 1); }).code,
            ExitCode::checkpoint);
  EXPECT_TRUE(fs::exists(root() / directory_name(7)));
}

TEST_F(SaveUnderFire, AReadOnlyFolderLeavesTheLastGoodOne) {
  ASSERT_EQ(save(1).message, "");
  fs::permissions(folder_.path(), fs::perms(0755));
  fs::permissions(root(), fs::perms(0555));
  const int status = in_child([&] {
    if (::geteuid() == 0 && ::setuid(65534) != 0) return kCannotTry;  // root may write anywhere
    const mpi::Outcome outcome = save(2);
    return outcome.code == ExitCode::environment ? 0 : 1;
  });
  fs::permissions(root(), fs::perms(0755));
  if (WIFEXITED(status) && WEXITSTATUS(status) == kCannotTry) GTEST_SKIP() << "rights stay";
  EXPECT_EQ(status, 0);
  EXPECT_EQ(newest(), 1);
  EXPECT_EQ(save(2).message, "");
}

}  // namespace
}  // namespace demist::checkpoint
