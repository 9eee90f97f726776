// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/process.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>

#include "core/file.hpp"
#include "orchestrator/signals.hpp"
#include "tests/support/temporary_folder.hpp"

namespace demist {
namespace {

TEST(Process, AReplacedProgramIsKnownByItsPlace) {
  const test::TemporaryFolder folder;
  const fs::path program = folder.path() / "program", newer = folder.path() / "newer";
  fs::copy_file("/bin/sleep", program);
  fs::copy_file("/bin/sleep", newer);
  fs::path before, after;
  const int code = run_process({{program.string(), "600"}, {}}, [&](int pid) {
    if (before.empty()) {
      before = program_of(pid);
      fs::rename(newer, program);
      after = program_of(pid);
    }
    ::kill(pid, SIGKILL);
  });
  EXPECT_EQ(code, 128 + SIGKILL);
  EXPECT_EQ(before, program);
  EXPECT_EQ(after, program);
  EXPECT_EQ(own_program(), program_of(::getpid()));
  EXPECT_EQ(program_of(1 << 30), fs::path());
}

// `yes | head` in a command that we start ends as in a shell.
TEST(Process, ChildrenOfOneThatOutlivesItsReadersDoNot) {
  outlive_readers();
  std::raise(SIGPIPE);
  const ProcessSpec child{{"sh", "-c", "kill -PIPE $$; exit 7"}, {}};
  EXPECT_EQ(capture_process(child, 60).code, 128 + SIGPIPE);
  EXPECT_EQ(run_process(child, [](int) {}), 128 + SIGPIPE);
  EXPECT_EQ(run_process(child), 128 + SIGPIPE);
  std::signal(SIGPIPE, SIG_DFL);
}

}  // namespace
}  // namespace demist
