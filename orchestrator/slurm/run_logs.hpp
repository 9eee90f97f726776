// Which log of a run somebody wants to read.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

namespace demist::slurm {

std::filesystem::path rank_log(const std::filesystem::path& run_dir, int rank);
// The newest job's log; rank 0's where there was no job.
std::filesystem::path main_log(const std::filesystem::path& run_dir);
struct Failure {
  std::filesystem::path log;  // empty: no log tells of an error
  std::string time, words;    // "2026-11-23T13:30:14Z"; "out of memory"
};
// The earliest error in the ranks' logs since that Unix time; where a rank was killed and says
// nothing, the job's log, if that tells of an error.
Failure first_failure(const std::filesystem::path& run_dir, double since);
// In one rank's log: since as `time` above. Both are empty when there is none.
Failure first_error(const std::string& log, const std::string& since);
std::string last_lines(const std::string& text, std::size_t count);  // 0: all

}  // namespace demist::slurm
