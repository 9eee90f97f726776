// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/step_events.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>

#include "core/log.hpp"
#include "orchestrator/events.hpp"
#include "orchestrator/format.hpp"
#include "orchestrator/nearest.hpp"

namespace demist {
namespace {

// The machines of those who may be at fault, each once.
std::vector<std::string> hosts_of(const Corruption& found, const std::vector<std::string>& hosts) {
  std::vector<std::string> named;
  for (const int rank : found.ranks) named.push_back(hosts.at(static_cast<std::size_t>(rank)));
  std::ranges::sort(named);
  named.erase(std::unique(named.begin(), named.end()), named.end());
  return named;
}

// "rank 2 on node7", "one of ranks 2, 3 on node7, node8"
std::string suspects(const Corruption& found, const std::vector<std::string>& hosts) {
  std::vector<std::string> ranks;
  for (const int rank : found.ranks) ranks.push_back(std::to_string(rank));
  return (ranks.size() == 1 ? "rank " : "one of ranks ") + join(ranks, ", ") + " on " +
         join(hosts_of(found, hosts), ", ");
}

}  // namespace

void append_step_events(const std::filesystem::path& run_dir, const std::string& stage,
                        const StepReport& report) {
  const std::string where = "stage " + stage + ", step " + std::to_string(report.step);
  if (report.recomputed && report.applied()) {
    append_event(run_dir, "step_recomputed", {{"stage", stage}, {"step", report.step}});
    log::warning(where +
                 ": a gradient was not finite, and was when computed again: a machine may "
                 "be faulty");
  }
  if (report.applied()) return;
  append_event(run_dir, "step_skipped",
               {{"stage", stage},
                {"step", report.step},
                {"reason", name_of(report.verdict)},
                {"loss", report.loss},
                {"grad_norm", report.grad_norm}});
  log::warning(where + ": not applied (" + name_of(report.verdict) + ")");
}

void append_rebalance(const std::filesystem::path& run_dir, const std::string& stage,
                      const Rebalance& rebalance) {
  constexpr std::size_t most = 16;  // groups that a line names
  const std::vector<double>& seconds = rebalance.seconds;
  const double typical = median(seconds);
  std::vector<std::size_t> others;
  for (std::size_t g = 0; g < seconds.size(); ++g)
    if (seconds[g] != typical) others.push_back(g);
  std::ranges::stable_sort(others, std::greater(), [&](std::size_t g) { return seconds[g]; });
  nlohmann::ordered_json named = nlohmann::ordered_json::array();
  std::vector<std::string> words;
  for (const std::size_t g : std::span(others).first(std::min(most, others.size()))) {
    const double times = std::round(seconds[g] / typical * 100) / 100;
    named.push_back({{"group", g}, {"times", times}, {"micro_batches", rebalance.shares[g]}});
    words.push_back(print("group %zu takes %.2f times as long and gets %d", g, times,
                          static_cast<int>(rebalance.shares[g])));
  }
  append_event(run_dir, "rebalanced",
               {{"stage", stage},
                {"step", rebalance.step},
                {"groups", named},
                {"largest_share", *std::ranges::max_element(rebalance.shares)}});
  log::info("stage " + stage + ", step " + std::to_string(rebalance.step) +
            ": micro-batches are shared out anew: " +
            (words.empty() ? "all groups are equally fast" : join(words, ", ")));
}

void append_rollback(const std::filesystem::path& run_dir, const std::string& stage,
                     const Rollback& rollback) {
  append_event(run_dir, "rollback",
               {{"stage", stage}, {"step", rollback.step}, {"data_steps", rollback.data_steps}});
  log::warning("stage " + stage + ": back to step " + std::to_string(rollback.step) +
               ", without the data of the next " + std::to_string(rollback.data_steps) + " steps");
}

void append_attention_fallback(const std::filesystem::path& run_dir, const std::string& stage,
                               const AttentionChoice& choice) {
  if (choice.fault.empty()) return;
  append_event(
      run_dir, "attention_fallback",
      {{"stage", stage}, {"attention", name_of(choice.planned.path)}, {"problem", choice.fault}});
}

void append_corruption(const std::filesystem::path& run_dir, const std::string& stage,
                       const StepReport& report, const std::vector<std::string>& hosts) {
  const Corruption& found = *report.corruption;
  append_event(run_dir, "corruption_found",
               {{"stage", stage},
                {"step", report.step},
                {"passing", found.passing},
                {"where", found.where},
                {"ranks", found.ranks},
                {"hosts", hosts_of(found, hosts)}});
  if (!found.passing) return;  // the error that ends the stage says it
  log::warning("stage " + stage + ", step " + std::to_string(report.step) + ": " + found.where +
               " came out differently on other ranks; at fault is " + suspects(found, hosts) +
               ". It passed, and what two computations agree on was used; a machine to which this "
               "happens again is bad");
}

std::string describe_corruption(const std::string& stage, const StepReport& report,
                                const std::vector<std::string>& hosts, std::int64_t check_every) {
  const Corruption& found = *report.corruption;
  const std::int64_t sound = std::max<std::int64_t>(0, report.step + 1 - check_every);
  return "stage " + stage + ", step " + std::to_string(report.step) + ": " + found.where +
         " comes out differently on other ranks, again and again; at fault is " +
         suspects(found, hosts) + ": go on without that machine. The last check before was after " +
         std::to_string(sound) +
         " steps, and what came since may be wrong too: `demist train --replay-step` on sound "
         "machines tells, and to go back delete the checkpoints of more than " +
         std::to_string(sound) + " steps";
}

}  // namespace demist
