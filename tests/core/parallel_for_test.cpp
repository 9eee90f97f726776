// SPDX-License-Identifier: Apache-2.0
#include "core/parallel_for.hpp"

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <vector>

namespace demist {
namespace {

std::vector<int> cores_of_this_thread() {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof set, &set);
  std::vector<int> cores;
  for (int core = 0; core < CPU_SETSIZE; ++core)
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  return cores;
}

// In a process of its own, with two cores: calls use_threads, and ends with the cores of each
// thread on standard error. "<0><1>": the first thread has the first core, the second the second.
void show_cores_and_exit(int threads, int local_rank, int local_ranks) {
  const std::vector<int> all = cores_of_this_thread();
  cpu_set_t two;
  CPU_ZERO(&two);
  CPU_SET(all[0], &two);
  CPU_SET(all[1], &two);
  sched_setaffinity(0, sizeof two, &two);
  use_threads(threads, local_rank, local_ranks);
  std::vector<std::string> shown(static_cast<std::size_t>(threads));
#pragma omp parallel num_threads(threads)
  for (const int core : cores_of_this_thread())
    shown[static_cast<std::size_t>(omp_get_thread_num())] += core == all[0] ? '0' : '1';
  for (const std::string& cores : shown) std::fprintf(stderr, "<%s>", cores.c_str());
  ::_exit(0);
}

class UseThreadsDeathTest : public testing::Test {
 protected:
  void SetUp() override {
    if (cores_of_this_thread().size() < 2) GTEST_SKIP() << "needs two cores";
    GTEST_FLAG_SET(death_test_style, "threadsafe");  // OpenMP does not survive a fork
  }
  static void expect(int threads, int local_rank, int local_ranks, const std::string& cores) {
    EXPECT_EXIT(show_cores_and_exit(threads, local_rank, local_ranks), testing::ExitedWithCode(0),
                "^" + cores + "$");
  }
};

TEST_F(UseThreadsDeathTest, ThreadsThatTakeAllCoresArePinned) {
  expect(2, 0, 1, "<0><1>");
  expect(1, 0, 2, "<0>");
  expect(1, 1, 2, "<1>");
}

// Two such jobs on one machine would both begin with the first core.
TEST_F(UseThreadsDeathTest, ThreadsThatLeaveCoresAreNot) { expect(1, 0, 1, "<01>"); }

TEST_F(UseThreadsDeathTest, MoreThreadsThanCoresAreNot) {
  expect(3, 0, 1, "<01><01><01>");
  expect(1, 2, 3, "<01>");
}

}  // namespace
}  // namespace demist
