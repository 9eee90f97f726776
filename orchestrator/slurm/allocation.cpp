// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/slurm/allocation.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <regex>
#include <sstream>
#include <thread>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "orchestrator/bad_nodes.hpp"
#include "orchestrator/nearest.hpp"
#include "orchestrator/process.hpp"
#include "orchestrator/progress.hpp"

namespace demist::slurm {
namespace {

std::string without_line_end(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

void sleep_until(double end, const StopAsked& stop_asked) {
  while (steady_seconds() < end && !stop_asked())
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string text_from(const fs::path& file, std::uintmax_t begin) {
  std::ifstream in(file, std::ios::binary);
  in.seekg(static_cast<std::streamoff>(begin));
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

}  // namespace

std::vector<Node> parse_nodes(const std::string& lines) {
  std::vector<Node> nodes;
  std::istringstream in(lines);
  for (Node node; in >> node.name >> node.state;) {
    const bool known = std::any_of(nodes.begin(), nodes.end(),
                                   [&](const Node& other) { return other.name == node.name; });
    if (!known) nodes.push_back(node);
  }
  return nodes;
}

bool is_usable(const std::string& state) {
  if (state.empty() || state.find('*') != std::string::npos) return false;
  static const char* const bad[] = {"down", "drain", "fail", "power", "unk", "reboot", "inval"};
  return std::none_of(std::begin(bad), std::end(bad),
                      [&](const char* word) { return state.find(word) != std::string::npos; });
}

bool has_failed(const std::string& state) {
  return state.find('*') != std::string::npos || state.find("down") != std::string::npos ||
         state.find("fail") != std::string::npos;
}

Crew choose_crew(const std::vector<Node>& allocated, const std::set<std::string>& bad,
                 const CrewRequest& request) {
  Crew crew;
  crew.ranks_per_node = request.ranks_per_node;
  std::vector<std::string> left_out;
  for (const Node& node : allocated) {
    const bool usable = is_usable(node.state) && !bad.contains(node.name);
    (usable ? crew.nodes : left_out).push_back(node.name);
  }
  const auto ranks = [&] { return static_cast<int>(crew.nodes.size()) * request.ranks_per_node; };
  while (ranks() % request.tensor_parallel != 0) crew.nodes.pop_back();
  crew.ranks = ranks();
  if (static_cast<int>(crew.nodes.size()) < std::max(1, request.min_nodes))
    throw Error(ExitCode::requeue,
                "only " + std::to_string(crew.nodes.size()) + " nodes of the allocation can be " +
                    "used, and at least " + std::to_string(request.min_nodes) + " are needed" +
                    (left_out.empty() ? "" : " (left out: " + join(left_out, ", ") + ")") +
                    "; the job needs other nodes");
  return crew;
}

std::vector<NodeFailure> failures_in(const std::string& srun_messages) {
  static const std::regex launch(R"(srun: error: .*failed on node (\S+): (.+))"),
      lost(R"(srun: error: (Node failure) on (\S+))"),
      killed(R"(srun: error: ([^\s:]+): tasks? [0-9,\[\]-]+: (.+))");
  std::vector<NodeFailure> found;
  std::istringstream lines(srun_messages);
  std::smatch match;
  constexpr std::size_t longest = 1000;  // std::regex recurses once a character
  for (std::string line; std::getline(lines, line);) {
    if (line.size() > longest) line.resize(longest);
    if (std::regex_search(line, match, launch))
      found.push_back({match[1], match[2], true});
    else if (std::regex_search(line, match, lost))
      found.push_back({match[2], match[1], true});
    else if (std::regex_search(line, match, killed))
      found.push_back({match[1], match[2], false});
  }
  return found;
}

Allocation::Allocation(fs::path run_dir, const CrewRequest& request, const QueryPatience& patience)
    : run_dir_(std::move(run_dir)),
      suspicion_(run_dir_),
      log_(variable("DEMIST_JOB_LOG")),
      request_(request),
      patience_(patience),
      job_(variable("SLURM_JOB_ID")) {
  if (job_.empty())
    throw ConfigError(
        "--launcher srun works inside an allocation; use `demist submit`, or salloc first");
}

// What it is asked has an answer: about this job, which runs, and about its nodes. None at all is
// no answer, as of a controller that has only just started.
std::string Allocation::ask(const std::vector<std::string>& query, const StopAsked& stop_asked) {
  const double end = steady_seconds() + patience_.total;
  double pause = patience_.first_pause, next_word = 0;
  while (true) {
    const Captured said = capture_process({query, {}}, patience_.answer, stop_asked);
    std::string answer = without_line_end(said.output);
    if (said.code == 0 && !answer.empty()) return answer;
    const std::string problem = join(query, " ") + ": " +
                                (said.code == 0 ? "an empty answer" : without_line_end(said.error));
    if (stop_asked()) throw Error(ExitCode::requeue, "asked to stop; " + problem);
    const double now = steady_seconds();
    if (now >= end || said.code == kNoSuchProgram)
      throw EnvironmentError(problem + "; is Slurm's controller reachable from this node?");
    if (now >= next_word) {
      log::warning(problem + "; asking again for " + format_duration(end - now));
      next_word = now + patience_.between_words;
    }
    sleep_until(std::min(end, now + pause), stop_asked);
    pause = std::min(2 * pause, patience_.longest_pause);
  }
}

// A controller that has just started takes a few seconds to hear from its nodes.
std::vector<Node> Allocation::known_nodes(const std::string& names, const StopAsked& stop_asked) {
  const double end = steady_seconds() + patience_.unknown;
  while (true) {
    std::vector<Node> nodes =
        parse_nodes(ask({"sinfo", "-h", "-N", "-n", names, "-o", "%N %T"}, stop_asked));
    const bool all_known = std::none_of(
        nodes.begin(), nodes.end(), [](const Node& node) { return node.state.starts_with("unk"); });
    const double now = steady_seconds();
    if (all_known || now >= end || stop_asked()) return nodes;
    sleep_until(std::min(end, now + patience_.first_pause), stop_asked);
  }
}

Crew Allocation::next(const StopAsked& stop_asked) {
  std::error_code absent;
  log_begin_ = log_.empty() ? 0 : fs::file_size(log_, absent);
  if (absent) log_begin_ = 0;
  // Not SLURM_JOB_NODELIST: Slurm takes dead nodes out of the job, the variable keeps them.
  const std::string names = ask({"squeue", "-h", "-j", job_, "-o", "%N"}, stop_asked);
  const std::vector<Node> nodes = known_nodes(names, stop_asked);
  for (const Node& node : nodes)
    if (has_failed(node.state)) add_bad_node(run_dir_, node.name, "Slurm calls it " + node.state);
  const std::vector<std::string> bad = read_bad_nodes(run_dir_);
  return choose_crew(nodes, {bad.begin(), bad.end()}, request_);
}

void Allocation::ended(int code, const std::string& accused) {
  if (code == 0 || code == static_cast<int>(ExitCode::requeue)) return suspicion_.after_attempt("");
  std::vector<NodeFailure> failures;
  if (!log_.empty()) failures = failures_in(text_from(log_, log_begin_));
  for (const NodeFailure& failure : failures)
    if (failure.of_node) add_bad_node(run_dir_, failure.node, failure.what);
  // The first words are about the cause: the rest was killed because of it.
  const bool by_signal = !failures.empty() && !failures.front().of_node &&
                         !failures.front().what.starts_with("Exited");
  suspicion_.after_attempt(accused.empty() && by_signal ? failures.front().node : accused);
}

}  // namespace demist::slurm
