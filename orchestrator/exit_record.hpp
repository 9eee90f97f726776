// Why each rank of a stage ended: <run>/ranks/<stage>.<rank>.exit, and which reason came first.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "core/mpi.hpp"

namespace demist {

namespace fs = std::filesystem;

struct ExitRecord {
  double time = 0;  // Unix seconds
  std::string stage;
  int rank = 0;
  std::string host;
  ExitCode code = ExitCode::internal;
  std::string message;  // one line
  bool agreed = false;  // an error of another rank, which all of them threw
};

std::string host_name();
// The same by Slurm's name for it where a Slurm job runs here: what `bad-nodes` and srun know.
std::string node_name();

// Where a rank cannot write its reason it still ends with it: no error.
void write_exit_record(const fs::path& run_dir, const ExitRecord& record);
// Forgets what earlier attempts left.
void clear_exit_records(const fs::path& run_dir, const std::string& stage);
// The earliest reason that is some rank's own, else the earliest. Damaged records are passed over.
std::optional<ExitRecord> first_cause(const fs::path& run_dir, const std::string& stage);

}  // namespace demist
