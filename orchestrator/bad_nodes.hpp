// Machines that made attempts of a run fail, and are avoided: <run>/bad-nodes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace demist {

// "node <tab> Unix seconds <tab> reason" a line, the oldest first. Its lines are the user's to
// delete.
std::vector<std::string> read_bad_nodes(const std::filesystem::path& run_dir);
void add_bad_node(const std::filesystem::path& run_dir, const std::string& node,
                  const std::string& reason);
// They have another chance.
void forget_bad_nodes(const std::filesystem::path& run_dir, const std::vector<std::string>& nodes);

// A machine that is suspected after two attempts in a row is a bad one.
class Suspicion {
 public:
  explicit Suspicion(std::filesystem::path run_dir) : run_dir_(std::move(run_dir)) {}
  void after_attempt(const std::string& node);  // empty: nobody is suspected

 private:
  std::filesystem::path run_dir_;
  std::string last_;
};

}  // namespace demist
