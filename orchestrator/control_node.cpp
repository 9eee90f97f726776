// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/control_node.hpp"

#include <algorithm>
#include <utility>

#include "core/error.hpp"
#include "orchestrator/control_wire.hpp"

namespace demist {

int ControlTree::first_child() const {
  return static_cast<int>(std::min<std::int64_t>(std::int64_t{rank} * most_children + 1, size));
}

int ControlTree::children() const { return std::min(most_children, size - first_child()); }

ControlNode::ControlNode(const ControlTree& tree, Send send)
    : tree_(tree),
      send_(std::move(send)),
      below_(static_cast<std::size_t>(tree.children())),
      silent_(tree.children()) {}

void ControlNode::post(const ControlMessage& message) {
  ensure(tree_.rank == 0, "rank 0 posts messages");
  deliver(encode(message, owner_));
}

// To this rank and all below it.
void ControlNode::deliver(const std::string& bytes) {
  for (int i = 0; i < tree_.children(); ++i) send_(tree_.first_child() + i, bytes);
  ControlMessage message = decode_message(bytes, owner_);
  if (const auto* plan = std::get_if<StepPlan>(&message)) owner_ = plan->owner;
  messages_.push_back(std::move(message));
}

void ControlNode::report(const Report& mine) {
  mine_.push_back(mine);
  pass_on();
}

void ControlNode::take(int from, const std::string& letter) {
  if (tree_.rank > 0 && from == tree_.parent()) return deliver(letter);
  const int child = from - tree_.first_child();
  ensure(child >= 0 && child < tree_.children(),
         "control letters come from neighbours in the tree");
  std::deque<Report>& reports = below_[static_cast<std::size_t>(child)];
  if (reports.empty()) --silent_;
  reports.push_back(decode_report(letter));
  pass_on();
}

void ControlNode::pass_on() {
  while (!mine_.empty() && silent_ == 0) {
    Report all = std::move(mine_.front());
    mine_.pop_front();
    for (std::deque<Report>& reports : below_) {
      merge(all, reports.front());
      reports.pop_front();
      if (reports.empty()) ++silent_;
    }
    if (tree_.rank == 0)
      merged_.push_back(std::move(all));
    else
      send_(tree_.parent(), encode(all));
  }
}

ControlMessage ControlNode::next_message() {
  ensure(has_message(), "no control message has arrived");
  ControlMessage message = std::move(messages_.front());
  messages_.pop_front();
  return message;
}

std::optional<Report> ControlNode::next_report() {
  if (merged_.empty()) return std::nullopt;
  Report report = std::move(merged_.front());
  merged_.pop_front();
  return report;
}

}  // namespace demist
