// One rank's part in the exchange between rank 0 and all ranks: messages travel down a tree,
// reports up, merged on the way. Knows no MPI: whoever drives it carries its letters.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "orchestrator/coordinator.hpp"

namespace demist {

// Rank 0 is the root; who is nearer to it has the smaller rank.
struct ControlTree {
  // A letter goes on only when its rank looks for letters, so few ranks should lie between: four
  // letters lead to the last of 4,096 ranks. With two children it would be twelve.
  static constexpr int kChildren = 8;

  int rank = 0, size = 1;
  int most_children = kChildren;

  int parent() const { return (rank - 1) / most_children; }  // REQUIRES: rank > 0
  int first_child() const;
  int children() const;
};

// Letters from one rank to another arrive in the order in which they were sent; nothing else is
// known of when they arrive.
class ControlNode {
 public:
  using Send = std::function<void(int to, const std::string& letter)>;
  ControlNode(const ControlTree& tree, Send send);

  void post(const ControlMessage& message);  // rank 0, to all and itself
  void report(const Report& mine);           // of the ranks' steps in order
  void take(int from, const std::string& letter);

  bool has_message() const { return !messages_.empty(); }
  ControlMessage next_message();  // REQUIRES: has_message()
  // All of its reports have gone on, with those of the ranks below. Until then letters are to come.
  bool has_reported() const { return mine_.empty(); }
  // Rank 0: what all ranks say of the oldest step that has not been asked for, once all have.
  std::optional<Report> next_report();

 private:
  void deliver(const std::string& bytes);
  void pass_on();

  const ControlTree tree_;
  const Send send_;
  std::deque<ControlMessage> messages_;
  std::vector<std::int32_t> owner_;        // of the newest plan
  std::deque<Report> mine_;                // that wait for those below
  std::vector<std::deque<Report>> below_;  // of each child
  int silent_;                             // children that have none there
  std::deque<Report> merged_;              // rank 0
};

}  // namespace demist
