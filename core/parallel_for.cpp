// SPDX-License-Identifier: Apache-2.0
#include "core/parallel_for.hpp"

#include <pthread.h>
#include <sched.h>

#include <span>
#include <vector>

namespace demist {
namespace {

// The cores this process was allowed to use when it started, before any pinning.
const std::vector<int>& allowed_cores() {
  static const std::vector<int> cores = [] {
    std::vector<int> found;
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0)
      for (int core = 0; core < CPU_SETSIZE; ++core)
        if (CPU_ISSET(core, &set)) found.push_back(core);
    return found;
  }();
  return cores;
}

void set_affinity(std::span<const int> cores) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int core : cores) CPU_SET(core, &set);
  // Best effort: a container may forbid it, and the run is then only slower.
  (void)pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

}  // namespace

void use_threads(int threads, int local_rank, int local_ranks) {
  omp_set_dynamic(0);
  omp_set_num_threads(threads);
  const auto& cores = allowed_cores();
  const int total = static_cast<int>(cores.size());
  // With cores to spare, another job may have the same: both would begin with the first. With more
  // threads than cores the kernel's scheduler does better than any fixed place.
  if (threads != total / local_ranks) return;
  const auto first = static_cast<std::size_t>(local_rank) * static_cast<std::size_t>(threads);
#pragma omp parallel num_threads(threads)
  {
    const int core = cores[first + static_cast<std::size_t>(omp_get_thread_num())];
    set_affinity(std::span(&core, 1));
  }
}

void unpin_this_thread() { set_affinity(allowed_cores()); }

}  // namespace demist
