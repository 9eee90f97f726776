// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/bad_nodes.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/append_line.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "orchestrator/events.hpp"
#include "orchestrator/stage_state.hpp"

namespace demist {
namespace {

fs::path file_of_bad_nodes(const fs::path& run_dir) { return run_dir / "bad-nodes"; }

std::string node_in(const std::string& line) { return line.substr(0, line.find('\t')); }

}  // namespace

std::vector<std::string> read_bad_nodes(const fs::path& run_dir) {
  std::vector<std::string> nodes;
  std::ifstream in(file_of_bad_nodes(run_dir));
  for (std::string line; std::getline(in, line);)
    if (!node_in(line).empty() && std::ranges::find(nodes, node_in(line)) == nodes.end())
      nodes.push_back(node_in(line));
  return nodes;
}

void add_bad_node(const fs::path& run_dir, const std::string& node, const std::string& reason) {
  const std::vector<std::string> known = read_bad_nodes(run_dir);
  if (std::ranges::find(known, node) != known.end()) return;
  const fs::path file = file_of_bad_nodes(run_dir);
  const auto now = static_cast<std::int64_t>(unix_seconds());
  if (!append_line(file, node + "\t" + std::to_string(now) + "\t" + reason))
    log::warning(file.string() + ": cannot write: " + std::strerror(errno));
  log::warning("node " + node + " is avoided from now on: " + reason + " (" + file.string() +
               " lists such nodes; delete the line of one that is well again)");
  append_event(run_dir, "node_avoided", {{"node", node}, {"reason", reason}});
}

void forget_bad_nodes(const fs::path& run_dir, const std::vector<std::string>& nodes) {
  if (nodes.empty()) return;
  const fs::path file = file_of_bad_nodes(run_dir);
  std::string rest;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);)
    if (std::ranges::find(nodes, node_in(line)) == nodes.end()) rest += line + "\n";
  in.close();
  atomic_write(file, rest);
  for (const std::string& node : nodes) append_event(run_dir, "node_tried_again", {{"node", node}});
}

void Suspicion::after_attempt(const std::string& node) {
  if (!node.empty() && node == last_)
    add_bad_node(run_dir_, node,
                 "twice in a row its ranks were the first to die, to hang or to fail at reading");
  last_ = node;
}

}  // namespace demist
