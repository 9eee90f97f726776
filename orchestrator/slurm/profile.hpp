// What a cluster wants to be told: the values of configs/cluster.proto, checked.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace demist::slurm {

struct Profile {
  std::vector<std::string> sbatch;  // options for `#SBATCH`, as "--partition=gpu"
  std::string time;                 // "": the site's default
  int ntasks_per_node = 1;
  int cpus_per_task = 0;  // 0: not asked for
  std::vector<std::string> modules, setup, environment;
  std::vector<std::string> srun;       // options of srun
  std::vector<std::string> container;  // words between srun's options and the program
  std::string stop_signal = "USR2";
  int stop_seconds = 300;
  int max_requeues = 10;  // in a row that lead to nothing new
};

// What an option of sbatch's gives: of "--exclude=n1", "--exclude n1", "-x n1" or "-xn1" n1, for
// "--exclude" and "-x".
std::optional<std::string> value_of(const std::string& option, const std::string& name,
                                    const std::string& letter);
// The lists of nodes that the profile itself excludes.
std::vector<std::string> never_on(const Profile& profile);

// Whether sbatch takes it: minutes, minutes:seconds, hours:minutes:seconds, days-hours,
// days-hours:minutes or days-hours:minutes:seconds.
bool is_time_limit(std::string_view text);

// Text that came from `file`. Throws ConfigError("file:line:column: field: problem; remedy").
Profile parse_profile(const std::string& text, const std::string& file);

// The profile a user means by --cluster: a file, or a name looked up in ~/.config/demist/clusters
// and configs/clusters. "": the one called default, else Profile(). Throws ConfigError naming where
// it looked.
Profile find_profile(const std::string& name);

}  // namespace demist::slurm
