// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/checkpoint.hpp"

#include <array>
#include <cstdio>
#include <ctime>

#include "core/error.hpp"
#include "core/file.hpp"
#include "orchestrator/commands/commands.hpp"
#include "orchestrator/config.hpp"
#include "orchestrator/format.hpp"
#include "orchestrator/run_folder.hpp"
#include "worker/checkpoint/survey.hpp"

namespace demist::cli {
namespace {

using checkpoint::Retention;
using checkpoint::Surveyed;

std::string utc(std::chrono::system_clock::time_point time) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(time);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%F %T", &parts);
  return text.data();
}

std::string loss_text(const std::optional<double>& loss) {
  return loss ? print("%.6g", *loss) : "-";
}

int list_checkpoints(const Arguments& arguments, const mpi::Comm&) {
  Options options("demist checkpoint list PATH...",
                  "Lists the checkpoints of a run, a stage or a folder, newest first: their step,\n"
                  "time, size, held-out loss where it was measured, and why they are kept.");
  options.rest("PATH", 1);
  if (!options.parse(arguments)) return 0;
  for (const std::string& path : options.positionals())
    for (const fs::path& folder : checkpoint_folders(path)) {
      const std::optional<Retention> rule = retention_of(folder);
      std::printf("%s\n%10s  %-19s  %8s  %9s  %s\n", folder.c_str(), "step", "written (UTC)",
                  "size", "held-out", rule ? "kept as" : "");
      for (const Surveyed& c : checkpoint::survey(folder, rule.value_or(Retention{}))) {
        if (!c.problem.empty())
          std::printf("%10lld  bad: %s\n", static_cast<long long>(c.entry.step), c.problem.c_str());
        else
          std::printf("%10lld  %-19s  %8s  %9s  %s\n", static_cast<long long>(c.entry.step),
                      utc(c.written).c_str(), format_bytes(c.bytes).c_str(),
                      loss_text(c.held_out_loss).c_str(),
                      !rule               ? ""
                      : c.reasons.empty() ? "superfluous"
                                          : c.reasons.c_str());
      }
    }
  return 0;
}

// What is wrong with it, in words; empty: every byte is as it was written.
std::string problem_of(const checkpoint::Entry& entry) {
  try {
    const checkpoint::Checkpoint opened(entry.path);
    opened.verify();
    opened.verify_tables();
    if (opened.meta().step != entry.step)
      return entry.path.string() + ": holds step " + std::to_string(opened.meta().step);
    return {};
  } catch (const Error& error) {
    return error.what();
  }
}

int verify_checkpoints(const Arguments& arguments, const mpi::Comm&) {
  Options options("demist checkpoint verify PATH...",
                  "Reads every byte of every checkpoint of a run, a stage or a folder, or of one\n"
                  "checkpoint, and names the files and tensors that are damaged. Ends with 4 when\n"
                  "there are any.");
  options.rest("PATH", 1);
  if (!options.parse(arguments)) return 0;
  std::size_t count = 0, bad = 0;
  for (const std::string& path : options.positionals())
    for (const checkpoint::Entry& entry : checkpoints_in(path)) {
      const std::string problem = problem_of(entry);
      ++count;
      bad += problem.empty() ? 0 : 1;
      std::printf("%s\n", problem.empty() ? (entry.path.string() + ": good").c_str()
                                          : ("bad: " + problem).c_str());
    }
  if (bad > 0)
    throw CheckpointError(std::to_string(bad) + " of " + std::to_string(count) +
                          " checkpoints are bad; a run passes over those whose values are");
  return 0;
}

// What the options say; without any, the run's recipe. What training may have to go back to is not
// theirs to say.
Retention wanted(const Options& options, const fs::path& folder) {
  const std::optional<Retention> rule = retention_of(folder);
  if (!options.has("keep-last") && !options.has("keep-every") && !options.has("keep-best")) {
    if (rule) return *rule;
    throw ConfigError(folder.string() +
                      " belongs to no run whose recipe would say what to keep; give --keep-last");
  }
  return {.last = options.integer<int>("keep-last", 1, 1),
          .every = options.integer<std::int64_t>("keep-every", 0, 0),
          .best = options.integer<int>("keep-best", 0, 0),
          .way_back = rule ? rule->way_back : checkpoint::WayBack{}};
}

int prune_checkpoints(const Arguments& arguments, const mpi::Comm&) {
  Options options(
      "demist checkpoint prune PATH [options]",
      "Removes the checkpoints of a run, a stage or a folder that no rule keeps. Without\n"
      "rules here the recipe's hold. Those that do not open are neither counted nor\n"
      "removed; those that training may go back to (`guard`) stay. Safe while the run\n"
      "goes on.");
  options.positional("PATH")
      .value("keep-last", "N", "keep so many of the newest; default: 1")
      .value("keep-every", "STEPS", "keep those whose step is a multiple")
      .value("keep-best", "N", "keep so many with the lowest held-out loss")
      .flag("dry-run", "only say what would be removed");
  if (!options.parse(arguments)) return 0;
  const bool dry = options.has("dry-run");
  std::uint64_t bytes = 0;
  for (const fs::path& folder : checkpoint_folders(options.positionals().front()))
    for (const Surveyed& c : checkpoint::survey(folder, wanted(options, folder))) {
      if (!c.superfluous()) continue;
      if (!dry) checkpoint::as_checkpoint_error([&] { checkpoint::remove_entry(c.entry); });
      std::printf("%s %s\n", dry ? "would remove" : "removed", c.entry.path.c_str());
      bytes += c.bytes;
    }
  std::printf("%s %s\n", format_bytes(bytes).c_str(), dry ? "would be free" : "freed");
  return 0;
}

}  // namespace

int checkpoints(const Arguments& arguments, const mpi::Comm& world) {
  return run_action(
      "checkpoint",
      {{"list", list_checkpoints}, {"verify", verify_checkpoints}, {"prune", prune_checkpoints}},
      arguments, world);
}

}  // namespace demist::cli
