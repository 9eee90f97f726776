// The machines that a user's options of mpirun name, and which of them an attempt may use.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "orchestrator/bad_nodes.hpp"
#include "orchestrator/launcher.hpp"

namespace demist {

struct Host {
  std::string name;
  int slots = 0;  // 0: as many as it has cores
};
// Of "--host a:2,b" or "--hostfile FILE" (and their other names), each once; none: none are named.
std::vector<Host> hosts_in(const std::vector<std::string>& options);
// The same options with "--host `list`" in place of what names hosts.
std::vector<std::string> with_hosts(const std::vector<std::string>& options,
                                    const std::string& list);
// Whether two names may be of one machine: "node7" and "node7.cluster".
bool same_machine(const std::string& a, const std::string& b);

class Hosts {
 public:
  // `hosts`: as named, one at least; ranks of a crew are a multiple of `tensor_parallel`.
  Hosts(std::filesystem::path run_dir, std::vector<Host> hosts, int tensor_parallel);
  // For the attempt that begins now: the hosts that are not bad, and fewer ranks where these have
  // fewer slots and all of them had enough. All hosts when every one is bad.
  Crew next(int ranks) const;
  // Remembers the host that made it fail: `accused` by the ranks' watchers after two attempts in a
  // row, or one that does not answer ssh. `explained`: a rank left a reason.
  void ended(int code, const std::string& accused, bool explained);

 private:
  std::filesystem::path run_dir_;
  std::vector<Host> hosts_;
  int tensor_;
  Suspicion suspicion_;
};

}  // namespace demist
