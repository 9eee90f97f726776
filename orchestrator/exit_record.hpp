// Why each rank of a stage ended: <run>/ranks/<stage>.<rank>.exit, and which reason came first.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "core/machine.hpp"
#include "core/mpi.hpp"

namespace demist {

namespace fs = std::filesystem;

struct ExitRecord {
  double time = 0;  // Unix seconds
  std::string stage;
  int rank = 0;
  std::string host;
  ExitCode code = ExitCode::internal;
  std::string message;       // one line
  bool agreed = false;       // an error of another rank, which all of them threw
  std::string machine = {};  // the one at fault, for it does not read what others read; else empty
};

// Where a rank cannot write its reason it still ends with it: no error.
void write_exit_record(const fs::path& run_dir, const ExitRecord& record);
// Forgets what earlier attempts left.
void clear_exit_records(const fs::path& run_dir, const std::string& stage);
// The earliest reason that is some rank's own, else the earliest. Damaged records are passed over.
std::optional<ExitRecord> first_cause(const fs::path& run_dir, const std::string& stage);
// The machine that made an attempt fail, where its first cause tells: a rank died or hung there, or
// could not read what others could. Else empty.
std::string suspected_node(const std::optional<ExitRecord>& cause);

}  // namespace demist
