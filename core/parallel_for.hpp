// Loops over the threads of this rank. A result must never depend on the number of threads: work is
// cut by shape into chunks, and chunks are combined in their own order.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <omp.h>

#include <cstdint>
#include <exception>

namespace demist {

// Calls body(i) for i in [0, n), in any order, on all threads. The first exception is rethrown
// here.
template <class Body>
void parallel_for(std::int64_t n, Body&& body) {
  std::exception_ptr error;
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < n; ++i) {
    try {
      body(i);
    } catch (...) {
#pragma omp critical(demist_parallel_for)
      if (!error) error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

constexpr std::int64_t div_ceil(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Body gets [begin, end) pieces of at most `grain` elements; the pieces depend on n and grain only.
template <class Body>
void parallel_ranges(std::int64_t n, std::int64_t grain, Body&& body) {
  parallel_for(div_ceil(n, grain), [&](std::int64_t i) {
    const std::int64_t begin = i * grain;
    body(begin, begin + grain < n ? begin + grain : n);
  });
}

// Uses `threads` OpenMP threads. When the ranks of this machine (this one is `local_rank` of
// `local_ranks`) have as many as there are cores for, each is pinned to a core of this rank's
// share: unpinned threads sometimes share one core for a whole run.
void use_threads(int threads, int local_rank, int local_ranks);
// Lets the calling helper thread (loader, writer) run on any core again: pinning is inherited.
void unpin_this_thread();

}  // namespace demist
