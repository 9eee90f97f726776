// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/slurm/run_facts.hpp"

#include <algorithm>
#include <csignal>
#include <fstream>

#include "core/error.hpp"
#include "core/file.hpp"
#include "orchestrator/events.hpp"
#include "orchestrator/exit_record.hpp"
#include "orchestrator/nearest.hpp"
#include "orchestrator/process.hpp"
#include "orchestrator/run_folder.hpp"
#include "orchestrator/slurm/run_lines.hpp"
#include "orchestrator/slurm/run_logs.hpp"
#include "orchestrator/stage_state.hpp"
#include "orchestrator/stop_file.hpp"

namespace demist::slurm {
namespace {

// Whether events_in() may look at the line. Steps may leave millions of others, in our own form.
bool may_concern_a_run(std::string_view line) {
  constexpr std::string_view field = "\"event\":\"";
  const std::size_t at = line.find(field);
  if (at == line.npos) return true;
  const std::string_view event = line.substr(at + field.size());
  return event.starts_with("run_") || event.starts_with("job_") ||
         event.starts_with("attempt_ended") || event.starts_with("stop_asked");
}

void add_events_of_runs(std::string_view text, std::string& lines) {
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    if (may_concern_a_run(line)) lines.append(line).append("\n");
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

RunProgress progress_of(const RunConfig& run) {
  RunProgress progress;
  progress.done = true;
  for (const StageConfig& stage : run.stages) {
    if (read_done(stage)) {
      progress.begun = progress.saved = true;
      continue;
    }
    progress.done = false;
    const auto started = read_started(stage);
    if (!started) break;
    progress.begun = true;
    progress.stage = stage.name;
    progress.began = started->began;
    const auto changed =
        fs::file_time_type::clock::to_sys(fs::last_write_time(stage.folder / "started.json"));
    progress.alive = std::chrono::duration<double>(changed.time_since_epoch()).count();
    if (const auto* work = std::get_if<TrainingStage>(&stage.work)) {
      progress.training = true;
      progress.saved =
          progress.saved || started->saved || fs::exists(stage.folder / "checkpoints" / "LATEST");
      progress.steps = work->steps;
    }
    break;
  }
  if (progress.training) {
    constexpr std::size_t enough = 1 << 16;  // bytes: some 200 steps
    add_metrics(tail_of(run.run_dir / "metrics.jsonl", enough), progress.stage, progress);
  }
  return progress;
}

std::optional<bool> lives(const RunEvents& events) {
  if (events.started == 0 || events.host != host_name() || events.process <= 0) return std::nullopt;
  return is_demist(events.process);
}

}  // namespace

bool is_demist(int process) {
  const fs::path program = program_of(process);
  if (program.empty()) return ::kill(process, 0) != 0 && errno == EPERM;  // somebody else's
  return program.filename() == own_program().filename();
}

std::string tail_of(const fs::path& file, std::size_t bytes) {
  std::ifstream in(file, std::ios::binary | std::ios::ate);
  if (!in) return "";
  const auto size = static_cast<std::size_t>(in.tellg());
  const std::size_t begin = size > bytes ? size - bytes : 0;
  std::string text(size - begin, '\0');
  in.seekg(static_cast<std::streamoff>(begin));
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(in.gcount()));
  if (begin > 0) text.erase(0, text.find('\n') + 1);
  return text;
}

std::optional<Job> current_job(const std::vector<Job>& jobs, const QueueAnswer& answer) {
  std::optional<Job> waiting;
  for (const Job& job : jobs) {
    if (!answer.is_live(job)) continue;
    if (const QueueRow* row = answer.find(job); row->state != "PENDING") return job;
    if (!waiting) waiting = job;
  }
  if (waiting) return waiting;
  for (const Job& job : jobs)
    if (!answer.doubt(job).empty() && answer.answered) return job;
  // A stage that fails takes those with it that waited for it; they are not what matters.
  for (auto job = jobs.rbegin(); job != jobs.rend(); ++job) {
    const QueueRow* row = answer.find(*job);
    if (row == nullptr || row->reason != "DependencyNeverSatisfied") return *job;
  }
  return std::nullopt;
}

Inspector::Inspector(fs::path run_dir)
    : run_dir_(std::move(run_dir)), file_(run_dir_ / kEventFile) {}

std::string Inspector::events_of_runs() {
  if (file_.begins_anew()) lines_.clear();
  file_.read([&](std::string_view text) { add_events_of_runs(text, lines_); });
  std::string lines = lines_;
  add_events_of_runs(file_.unfinished(), lines);
  return lines;
}

std::set<std::string> Inspector::jobs_over() {
  std::set<std::string> over = events_in(events_of_runs()).jobs_over;
  over.insert(gone_.begin(), gone_.end());
  return over;
}

Inspection Inspector::look() {
  Inspection found;
  found.run = load_recipe(run_dir_ / "recipe.textproto",
                          {"run_dir=" + fs::absolute(run_dir_).lexically_normal().string()});
  found.jobs = read_jobs(run_dir_);
  RunFacts& facts = found.facts;
  // Slurm first: what the folder says afterwards is newer, and wins.
  if (!found.jobs.empty()) found.queue = ask_queue(found.jobs, jobs_over());
  gone_.insert(found.queue.denied.begin(), found.queue.denied.end());
  facts.job = current_job(found.jobs, found.queue);
  if (facts.job) {
    facts.queue_problem = found.queue.doubt(*facts.job);
    facts.queue_answered = facts.queue_problem.empty();
    if (const QueueRow* row = found.queue.find(*facts.job)) facts.row = *row;
  }
  if (facts.job && !(facts.row && facts.row->is_live())) facts.account = ask_accounting(*facts.job);
  facts.host = host_name();
  // Before what is told of ends: who has let go of it has told.
  facts.lock = lock_holder(run_dir_ / "lock");
  facts.events = events_in(events_of_runs());
  if (!facts.events.open && facts.events.cause.empty()) {
    facts.events.cause = first_failure(run_dir_, facts.events.started).words;
    if (!facts.events.cause.empty()) facts.events.failed = facts.events.ended;
  }
  facts.progress = progress_of(found.run);
  found.unsent = unsent_of(found.run, found.jobs);
  facts.unsent = found.unsent.text();
  facts.stop_file = fs::exists(run_dir_ / kStopFile);
  facts.process_lives = lives(facts.events);
  facts.now = unix_seconds();
  return found;
}

fs::path find_run(const std::string& name) {
  if (is_run_folder(name)) return name;
  if (is_run_folder(fs::path("runs") / name)) return fs::path("runs") / name;
  std::vector<std::string> known;
  std::error_code none;  // no runs/ here
  for (const auto& entry : fs::directory_iterator("runs", none))
    if (is_run_folder(entry.path())) known.push_back(entry.path().filename().string());
  const std::string where = fs::path(name).is_absolute() ? "': it holds no recipe.textproto"
                                                         : "': neither " + name + " nor runs/" +
                                                               name + " holds a recipe.textproto";
  throw ConfigError("there is no run '" + name + where + did_you_mean(name, known));
}

}  // namespace demist::slurm
