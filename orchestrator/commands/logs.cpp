// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <optional>
#include <sstream>
#include <thread>

#include "core/error.hpp"
#include "core/file.hpp"
#include "orchestrator/commands/commands.hpp"
#include "orchestrator/exit_record.hpp"
#include "orchestrator/slurm/run_facts.hpp"
#include "orchestrator/slurm/run_logs.hpp"

namespace demist::cli {
namespace {

// Prints what is appended, until the run is over.
void follow(const fs::path& run, const fs::path& file) {
  std::ifstream in(file, std::ios::binary | std::ios::ate);
  using std::chrono::steady_clock;
  auto next_look = steady_clock::now();
  while (true) {
    in.clear();
    std::ostringstream text;
    if (in.peek() != std::char_traits<char>::eof()) text << in.rdbuf();
    std::fputs(text.str().c_str(), stdout);
    std::fflush(stdout);
    if (text.str().empty() && steady_clock::now() >= next_look) {
      if (slurm::judge(slurm::inspect_run(run).facts).is_over()) return;
      next_look = steady_clock::now() + std::chrono::seconds(5);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
  }
}

fs::path log_wanted(const fs::path& run, const Options& options) {
  if (options.has("rank")) return slurm::rank_log(run, options.integer("rank", 0, 0));
  return slurm::main_log(run);
}

// A job that is queued has no log yet. Returns when there is one, or the run is over.
fs::path wait_for_log(const fs::path& run, const Options& options) {
  using std::chrono::steady_clock;
  auto next_look = steady_clock::now();
  std::string last;
  while (true) {
    fs::path file = log_wanted(run, options);
    if (fs::exists(file)) return file;
    if (steady_clock::now() >= next_look) {
      const slurm::Inspection found = slurm::inspect_run(run);
      const slurm::RunState state = slurm::judge(found.facts);
      if (state.is_over()) return log_wanted(run, options);
      const std::string now = slurm::describe(state, found.facts);
      if (now != last)
        std::fprintf(stderr, "there is no %s yet; waiting for it: %s\n",
                     found.jobs.empty() ? file.c_str() : "log", now.c_str());
      last = now;
      next_look = steady_clock::now() + std::chrono::seconds(5);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
  }
}

// What the rank that failed first in this run of the supervisor has left; a log may tell nothing of
// it, as of a rank that was killed.
std::optional<ExitRecord> first_reason(const slurm::Inspection& found) {
  for (auto stage = found.run.stages.rbegin(); stage != found.run.stages.rend(); ++stage) {
    const auto reason = first_cause(found.run.run_dir, stage->name);
    if (reason && reason->code != ExitCode::requeue && reason->time >= found.facts.events.started)
      return reason;
  }
  return std::nullopt;
}

// The log of the rank that failed first, after its reason.
fs::path log_of_failure(const fs::path& run) {
  const slurm::Inspection found = slurm::inspect_run(run);
  const auto reason = first_reason(found);
  fs::path log = slurm::first_failure(run, found.facts.events.started).log;
  if (!reason && log.empty())
    throw ConfigError(run.string() + ": no log tells of an error; " +
                      slurm::describe(slurm::judge(found.facts), found.facts));
  if (!reason) return log;
  std::printf("stage %s, rank %d on %s: %s\n", reason->stage.c_str(), reason->rank,
              reason->host.c_str(), reason->message.c_str());
  std::fflush(stdout);
  const fs::path own = slurm::rank_log(run, reason->rank);
  return fs::exists(own) ? own : log;
}

void show_end(const fs::path& file, std::size_t lines) {
  std::fprintf(stderr, "==> %s\n", file.c_str());
  std::fputs(slurm::last_lines(read_file(file), lines).c_str(), stdout);
}

}  // namespace

int logs(const Arguments& arguments, const mpi::Comm&) {
  Options options("demist logs RUN [options]",
                  "What a run says: the job's log, or that of one rank. Requeued jobs append to\n"
                  "one log.");
  options.positional("RUN")
      .value("rank", "N", "the log of this rank")
      .flag("errors", "why the rank failed that failed first, and the last lines of its log")
      .value("lines", "N", "lines from the end; 0: all; default: 50")
      .flag("follow,f",
            "stay, and print what is appended until the run is over; waits for a job that is "
            "queued");
  if (!options.parse(arguments)) return 0;
  const fs::path run = slurm::find_run(options.positionals().front());
  const auto lines = static_cast<std::size_t>(options.integer("lines", 50, 0));
  const bool errors = options.has("errors") && !options.has("rank");
  const bool waits = options.has("follow") && !options.has("errors");
  const fs::path file = errors  ? log_of_failure(run)
                        : waits ? wait_for_log(run, options)
                                : log_wanted(run, options);
  if (errors && file.empty()) return 0;  // a reason, and no log
  if (!fs::exists(file)) throw ConfigError(file.string() + " does not exist (yet)");
  show_end(file, lines);
  if (options.has("follow")) follow(run, file);
  return 0;
}

}  // namespace demist::cli
