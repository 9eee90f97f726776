// <run>/launch.json: how a run was started, so that it can be started again.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace demist {

struct Submission {         // as on the command line of `demist submit`
  std::string nodes = "1";  // "4" or "2-4"
  int ntasks_per_node = 0;  // 0: the profile's
  std::string time;         // "": the profile's
  std::string cluster;      // a profile's file or name; "": the default one
  bool stage_jobs = false;  // a job a stage
  int chain = 1;            // jobs one after another
  double since = 0;         // jobs of before are not of it; Unix seconds, whole; 0: not known
};

struct Launch {
  std::string recipe;                    // absolute
  std::vector<std::string> overrides;    // --set
  std::optional<Submission> submission;  // none: by `demist run`
  std::string launcher;                  // of `demist run`: --launcher; "": the default
  std::string stage;                     // --stage; "": all
};

// Refuses names that the file cannot hold, for it is JSON: those that are no UTF-8. Throws
// ConfigError.
void check_names(const Launch& launch);

std::string to_json(const Launch& launch);         // REQUIRES: check_names
Launch launch_from_json(const std::string& text);  // throws DataError

void write_launch(const std::filesystem::path& run_dir, const Launch& launch);
// Throws ConfigError when the folder holds none.
Launch read_launch(const std::filesystem::path& run_dir);

}  // namespace demist
