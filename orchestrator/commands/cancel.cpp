// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/error.hpp"
#include "core/file.hpp"
#include "orchestrator/commands/commands.hpp"
#include "orchestrator/events.hpp"
#include "orchestrator/exit_record.hpp"
#include "orchestrator/nearest.hpp"
#include "orchestrator/process.hpp"
#include "orchestrator/progress.hpp"
#include "orchestrator/slurm/run_facts.hpp"
#include "orchestrator/stop_file.hpp"

namespace demist::cli {
namespace {

using slurm::Inspection;

void scancel(const slurm::Job& job) {
  std::vector<std::string> command{"scancel", job.id};
  if (!job.cluster.empty()) command.push_back("--clusters=" + job.cluster);
  constexpr double patience = 60;  // seconds
  const Captured said = capture_process({command, {}}, patience);
  if (said.code != 0) throw EnvironmentError(join(command, " ") + ": " + said.error);
  std::printf("cancelled job %s\n", job.id.c_str());
}

// Jobs in the queue: only those that wait, or all.
void cancel_jobs(const Inspection& found, bool waiting_only) {
  for (const slurm::Job& job : found.jobs) {
    if (!found.queue.is_live(job)) continue;
    if (!waiting_only || found.queue.find(job)->is_waiting()) scancel(job);
  }
}

void require_answer(const Inspection& found) {
  const std::string doubt = found.queue.doubt(found.jobs);
  if (!doubt.empty())
    throw EnvironmentError(doubt + "; the run stops itself when it sees " + kStopFile +
                           " in its folder; try again for what waits in the queue");
}

// Where no job stands for it. False: that has to be done elsewhere, and it has said where.
bool end_worker(const fs::path& run, const Inspection& found) {
  const auto worker = slurm::worker_of(found.facts);
  if (!worker) return true;
  const bool here = worker->host == found.facts.host && slurm::is_demist(worker->process);
  // As a person who types Ctrl-C twice.
  for (int i = 0; i < 2 && here; ++i) {
    if (::kill(worker->process, SIGINT) != 0 && i == 0)
      throw EnvironmentError("cannot end process " + std::to_string(worker->process) + ": " +
                             std::strerror(errno));
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  if (here)
    std::printf("ended process %d\n", worker->process);
  else
    std::printf(
        "process %d on %s works on it, out of reach from here; it is asked to save and "
        "stop. To end it at once, on %s: demist cancel %s --now\n",
        worker->process, worker->host.c_str(), worker->host.c_str(), fs::absolute(run).c_str());
  return here;
}

// Until nobody works on the run any more; false when that takes too long.
bool wait_for_end(const fs::path& run, double patience_seconds) {
  slurm::Inspector inspector(run);
  const double until = steady_seconds() + patience_seconds;
  std::string last;
  while (steady_seconds() < until) {
    const Inspection found = inspector.look();
    const slurm::RunState state = slurm::judge(found.facts);
    const std::string text = slurm::describe(state, found.facts);
    if (text != last) std::printf("%s\n", text.c_str());
    std::fflush(stdout);
    last = text;
    if (state.is_over()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(found.jobs.empty() ? 200 : 1000));
  }
  return false;
}

}  // namespace

int cancel(const Arguments& arguments, const mpi::Comm&) {
  Options options(
      "demist cancel RUN [options]",
      "Asks a run to save and stop, waits for that, and takes its waiting jobs out of\n"
      "the queue. `demist resume RUN` goes on. A stage that was started by hand (mpirun\n"
      "demist train) hears it as well; the same command goes on. Ends with code 5 when\n"
      "the run did not stop in time, or has to be ended on another host.");
  options.positional("RUN")
      .flag("now", "do not save: the last checkpoint stands")
      .value("wait", "SECONDS", "how long to wait for the save; then as --now; default: 600");
  if (!options.parse(arguments)) return 0;
  const fs::path run = slurm::find_run(options.positionals().front());
  const double patience = options.real("wait", 600, 0);
  const Inspection before = slurm::inspect_run(run);
  const slurm::RunState state = slurm::judge(before.facts);
  if (state.is_over()) {
    std::printf("%s\n", slurm::describe(state, before.facts).c_str());
    return 0;
  }
  atomic_write(run / kStopFile, "");
  append_event(run, "stop_asked", {{"host", host_name()}});
  cancel_jobs(before, !options.has("now"));
  require_answer(before);
  constexpr int unreached = static_cast<int>(ExitCode::environment);
  if (options.has("now")) return end_worker(run, before) ? 0 : unreached;
  if (wait_for_end(run, patience)) return 0;
  std::printf("it has not stopped in time\n");
  const Inspection after = slurm::inspect_run(run);
  cancel_jobs(after, false);
  end_worker(run, after);
  return unreached;
}

}  // namespace demist::cli
