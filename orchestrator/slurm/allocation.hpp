// The nodes of our own allocation: which of them an attempt may use, and which have failed.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "orchestrator/bad_nodes.hpp"
#include "orchestrator/launcher.hpp"

namespace demist::slurm {

struct Node {
  std::string name, state;  // in sinfo's words: "allocated", "down*"
};
// The lines of `sinfo -h -N -o "%N %T"`, in their order; a node of several partitions once.
std::vector<Node> parse_nodes(const std::string& lines);
// Whether a rank can be started there. A star means that the node has not answered for a while.
bool is_usable(const std::string& state);
// Of those that are not, whether it broke: one that is drained or reboots does as it is told.
bool has_failed(const std::string& state);

struct CrewRequest {
  int ranks_per_node = 1;
  int min_nodes = 1;
  int tensor_parallel = 1;  // ranks of a crew are a multiple of it
};
// As many of the usable nodes as make whole tensor-parallel groups. Throws Error(requeue) when they
// are too few.
Crew choose_crew(const std::vector<Node>& allocated, const std::set<std::string>& bad,
                 const CrewRequest& request);

// What srun wrote about nodes, in its order.
struct NodeFailure {
  std::string node, what;
  bool of_node = false;  // the node's fault for sure: it did not answer, or Slurm gave it up
};
std::vector<NodeFailure> failures_in(const std::string& srun_messages);

// How long a controller is asked again that is busy, restarts or cannot be reached; in seconds.
struct QueryPatience {
  double answer = 60;  // for one answer
  double total = 900;  // for all tries: a restart with an update of its database takes minutes
  double first_pause = 1, longest_pause = 30;  // between tries; each twice as long as the last
  double between_words = 60;                   // of warnings
  double unknown = 60;  // while it answers, but does not know yet how its nodes are
};

// Whether somebody asks for a stop meanwhile.
using StopAsked = std::function<bool()>;

// The allocation that this process runs in.
class Allocation {
 public:
  // Throws ConfigError outside of an allocation.
  Allocation(std::filesystem::path run_dir, const CrewRequest& request,
             const QueryPatience& patience = {});
  // Whether a batch script of ours has started this process, and not somebody's shell.
  bool in_batch_script() const { return !log_.empty(); }
  // For the attempt that begins now. Throws Error(requeue) when nodes are too few or a stop is
  // asked for, EnvironmentError when Slurm gives no answer.
  Crew next(const StopAsked& stop_asked);
  // Remembers nodes that made it fail: at once those that Slurm gave up, and after two attempts in
  // a row one whose rank died, hung or could not read first: `accused` by the ranks, or, where that
  // is empty, the first of which srun says that a signal killed it.
  void ended(int code, const std::string& accused);

 private:
  std::string ask(const std::vector<std::string>& query, const StopAsked& stop_asked);
  std::vector<Node> known_nodes(const std::string& names, const StopAsked& stop_asked);

  std::filesystem::path run_dir_;
  Suspicion suspicion_;
  std::filesystem::path log_;  // where srun's messages go; empty: unknown
  CrewRequest request_;
  QueryPatience patience_;
  std::string job_;
  std::uintmax_t log_begin_ = 0;  // bytes that were there before the attempt
};

}  // namespace demist::slurm
