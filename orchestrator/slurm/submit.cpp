// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/slurm/submit.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <nlohmann/json.hpp>

#include "core/checksum.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "orchestrator/bad_nodes.hpp"
#include "orchestrator/config.hpp"
#include "orchestrator/events.hpp"
#include "orchestrator/nearest.hpp"
#include "orchestrator/process.hpp"
#include "orchestrator/run_folder.hpp"
#include "orchestrator/run_plan.hpp"
#include "orchestrator/slurm/job_script.hpp"
#include "orchestrator/slurm/partition.hpp"
#include "orchestrator/slurm/queue.hpp"
#include "orchestrator/slurm/run_facts.hpp"
#include "orchestrator/slurm/unsent.hpp"
#include "orchestrator/stage_state.hpp"
#include "orchestrator/stop_file.hpp"

namespace demist::slurm {
namespace {

// One sbatch: a script and the job that it waits for.
struct Planned {
  JobPlan plan;
  fs::path script;
  std::string dependency;  // "afterok" or "afterany" of the job before; "": none
};

bool is_done(const RunConfig& run) {
  return std::all_of(run.stages.begin(), run.stages.end(),
                     [](const StageConfig& stage) { return read_done(stage).has_value(); });
}

bool needs_nodes(const StageConfig& stage) {
  return !std::holds_alternative<PrepareStage>(stage.work) &&
         !std::holds_alternative<TokenizerStage>(stage.work);
}

std::string time_asked_for(const Submission& asked) {
  if (!is_time_limit(asked.time))
    throw ConfigError("--time " + asked.time + ": is no time limit; write minutes (\"90\"), " +
                      "\"minutes:seconds\", \"12:00:00\" (hours first), \"2-12\" (days-hours), " +
                      "\"2-12:00\" or \"2-12:00:00\"");
  return asked.time;
}

JobPlan base_plan(const RunConfig& run, const Launch& launch) {
  const Submission& asked = *launch.submission;
  JobPlan plan;
  plan.profile = find_profile(asked.cluster);
  if (!asked.time.empty()) plan.profile.time = time_asked_for(asked);
  plan.name = run.name;
  plan.recipe_hash = run.hash;
  plan.run_dir = run.run_dir.string();
  plan.program = own_program().string();
  plan.working_folder = fs::current_path().string();
  plan.nodes = parse_node_range(asked.nodes);
  plan.ntasks_per_node =
      asked.ntasks_per_node > 0 ? asked.ntasks_per_node : plan.profile.ntasks_per_node;
  plan.avoid = nodes_to_avoid(plan.profile, read_bad_nodes(run.run_dir), plan.nodes.least);
  const int least = plan.nodes.least * plan.ntasks_per_node;
  if (least % run.tensor_parallel != 0)
    throw ConfigError("--nodes " + asked.nodes + " with " + std::to_string(plan.ntasks_per_node) +
                      " ranks a node: " + std::to_string(least) +
                      " ranks are no multiple of parallel.tensor = " +
                      std::to_string(run.tensor_parallel) + "; ask for more nodes or ranks");
  return plan;
}

// How a job waits for the one before it.
std::string dependency_of(const Submission& asked) {
  return asked.stage_jobs ? "afterok" : "afterany";
}

std::vector<Planned> stage_jobs(const RunConfig& run, const JobPlan& base, const std::string& how) {
  std::vector<Planned> jobs;
  for (const StageConfig& stage : run.stages) {
    if (read_done(stage)) continue;
    Planned job{base, run.run_dir / ("submit-" + stage.name + ".sh"), jobs.empty() ? "" : how};
    job.plan.stage = stage.name;
    if (!needs_nodes(stage)) job.plan.nodes = NodeRange{};
    jobs.push_back(std::move(job));
  }
  return jobs;
}

std::vector<Planned> plan_jobs(const RunConfig& run, const Launch& launch) {
  const Submission& asked = *launch.submission;
  const JobPlan base = base_plan(run, launch);
  if (asked.stage_jobs) return stage_jobs(run, base, dependency_of(asked));
  std::vector<Planned> jobs;
  for (int i = 0; i < asked.chain; ++i) {
    Planned job{base, run.run_dir / "submit.sh", i == 0 ? "" : dependency_of(asked)};
    job.plan.chained = asked.chain > 1;
    jobs.push_back(std::move(job));
  }
  return jobs;
}

// The jobs of this run that still live; asks nobody when none was ever submitted.
std::vector<Job> live_jobs(const RunConfig& run) {
  const std::vector<Job> known = read_jobs(run.run_dir);
  if (known.empty()) return {};
  const QueueAnswer answer = ask_queue(known, Inspector(run.run_dir).jobs_over());
  if (const std::string doubt = answer.doubt(known); !doubt.empty())
    throw EnvironmentError("cannot tell whether a job of this run is in the queue: " + doubt +
                           "; try again when Slurm answers, or delete the line of a job that you "
                           "know to be over from " +
                           (run.run_dir / "jobs.tsv").string());
  std::vector<Job> live;
  std::ranges::copy_if(known, std::back_inserter(live),
                       [&](const Job& job) { return answer.is_live(job); });
  return live;
}

// sbatch may have been cut off, or this program, when Slurm had the job already.
void refuse_unknown_jobs(const RunConfig& run) {
  const std::vector<Job> known = read_jobs(run.run_dir);
  std::vector<std::string> unknown;
  for (const QueueRow& row : jobs_of_folder(folder_mark(run.run_dir)))
    if (std::ranges::none_of(known, [&](const Job& job) { return job.id == row.id; }))
      unknown.push_back(row.id);
  if (!unknown.empty())
    throw EnvironmentError("Slurm has jobs for " + run.run_dir.string() +
                           " that its jobs.tsv does not know, for the answer of an earlier sbatch "
                           "was lost; scancel " +
                           join(unknown, " ") + ", then try again");
}

// Else the job would leave them out as well, when it runs.
void forget_all_but(const std::vector<std::string>& avoided, const fs::path& run_dir) {
  std::vector<std::string> again = read_bad_nodes(run_dir);
  std::erase_if(again, [&](const std::string& node) {
    return std::ranges::find(avoided, node) != avoided.end();
  });
  forget_bad_nodes(run_dir, again);
}

// `previous`: the job before, if there is one.
std::vector<std::string> sbatch_command(const Planned& planned, const std::string& previous) {
  std::vector<std::string> command{"sbatch", "--parsable"};
  if (!planned.dependency.empty() && !previous.empty()) {
    command.push_back("--dependency=" + planned.dependency + ":" + previous);
    // Else what can never run any more would wait for ever.
    command.emplace_back("--kill-on-invalid-dep=yes");
  }
  command.push_back(planned.script.string());
  return command;
}

Job send(const Planned& planned, const std::string& previous) {
  const std::vector<std::string> command = sbatch_command(planned, previous);
  constexpr double patience = 120;  // seconds
  const Captured said = capture_process({command, {}}, patience);
  if (said.code != 0)
    throw EnvironmentError(join(command, " ") + ": " + said.error +
                           (said.code == 127 ? "; is this a login node of a Slurm cluster?" : ""));
  std::string id = said.output.substr(0, said.output.find('\n')), cluster;
  if (const auto semicolon = id.find(';'); semicolon != std::string::npos) {
    cluster = id.substr(semicolon + 1);
    id.resize(semicolon);
  }
  return {id,
          cluster,
          unix_seconds(),
          planned.plan.recipe_hash,
          planned.plan.stage,
          planned.plan.nodes.text(),
          folder_mark(planned.plan.run_dir)};
}

std::string name_of(const Job& job) {
  return "job " + job.id + (job.stage.empty() ? "" : " (stage " + job.stage + ")");
}

void say(const std::vector<Job>& jobs) {
  for (const Job& job : jobs)
    std::printf("%s: %s nodes\n", name_of(job).c_str(), job.nodes.c_str());
}

void say_what_next(const RunConfig& run) {
  const std::string folder = run.run_dir.string();
  std::printf(
      "\n  demist status %s      how it goes; --watch to stay\n"
      "  demist logs %s -f     what it says; --errors when it failed\n"
      "  demist cancel %s      save and stop; demist resume goes on\n",
      folder.c_str(), folder.c_str(), folder.c_str());
}

// A job of another recipe would write into this folder too.
void refuse_other_recipe(const RunConfig& run, const std::vector<Job>& live) {
  for (const Job& job : live)
    if (job.recipe_hash != run.hash)
      throw ConfigError("job " + job.id + " of this run was submitted with another recipe; " +
                        "`demist cancel " + run.run_dir.string() + "` first, or choose another " +
                        "folder with --set run_dir=...");
}

// The scripts, and how they would be submitted, one after another.
void show(const std::vector<Planned>& jobs) {
  std::string shown;
  for (const Planned& job : jobs) {
    if (job.script == shown) continue;
    shown = job.script;
    std::printf("### %s\n%s", job.script.c_str(), job_script(job.plan).c_str());
  }
  std::printf("### %zu job%s:\n", jobs.size(), jobs.size() == 1 ? "" : "s");
  for (const Planned& job : jobs)
    std::printf("### %s\n", join(sbatch_command(job, "<id of the job before>"), " ").c_str());
}

// What sbatch refused when the same command submitted these live jobs; `launch` then takes over
// from the record when that was.
std::vector<Planned> rest_of(const RunConfig& run, const std::vector<Planned>& planned,
                             const std::vector<Job>& live, Launch& launch) {
  const std::vector<Job> known = read_jobs(run.run_dir);
  // Nothing can follow what is over, and what is asked to stop is not to go on.
  if (live.back().id != known.back().id || fs::exists(run.run_dir / kStopFile)) return {};
  const auto before = submission_in(run.run_dir);
  Submission& asked = *launch.submission;
  if (!before || before->stage_jobs != asked.stage_jobs || before->chain != asked.chain) return {};
  asked.since = before->since;
  const Unsent unsent = unsent_of(run, known);
  std::vector<Planned> rest;
  for (const Planned& job : planned) {
    const bool wanted =
        asked.stage_jobs ? std::ranges::find(unsent.stages, job.plan.stage) != unsent.stages.end()
                         : static_cast<int>(rest.size()) < unsent.jobs;
    if (!wanted) continue;
    rest.push_back(job);
    rest.back().dependency = dependency_of(asked);
  }
  return rest;
}

std::string what_is_queued(const RunConfig& run, const std::vector<Job>& queued) {
  std::vector<std::string> names;
  for (const Job& job : queued) names.push_back(name_of(job));
  const std::string left = unsent_of(run, read_jobs(run.run_dir)).text();
  return "queued all the same: " + join(names, ", ") + "; not submitted: " + left +
         ". The same command, or `demist resume " + run.run_dir.string() +
         "`, submits what is missing behind them; `demist cancel " + run.run_dir.string() +
         "` takes them back";
}

// One after another, each recorded as soon as it is queued. `queued`: jobs of the same submission
// that are; the first one follows the last of them.
std::vector<Job> send_all(const RunConfig& run, const std::vector<Planned>& planned,
                          std::vector<Job> queued) {
  std::vector<Job> sent;
  for (const Planned& job : planned) {
    atomic_write(job.script, job_script(job.plan));
    fs::permissions(job.script, fs::perms::owner_exec, fs::perm_options::add);
    try {
      sent.push_back(send(job, queued.empty() ? "" : queued.back().id));
    } catch (const EnvironmentError& error) {
      if (queued.empty()) throw;
      throw EnvironmentError(std::string(error.what()) + "; " + what_is_queued(run, queued));
    }
    queued.push_back(sent.back());
    append_job(run.run_dir, sent.back());
    append_event(run.run_dir, "submitted", {{"job", sent.back().id}, {"nodes", sent.back().nodes}});
  }
  return sent;
}

int submit_rest(const RunConfig& run, const std::vector<Planned>& planned,
                const std::vector<Job>& live, Launch launch) {
  std::printf("submitted already:\n");
  say(live);
  if (const std::vector<Planned> rest = rest_of(run, planned, live, launch); !rest.empty()) {
    write_launch(run.run_dir, launch);
    forget_all_but(planned.front().plan.avoid, run.run_dir);
    std::fflush(stdout);
    const std::vector<Job> sent = send_all(run, rest, live);
    std::printf("submitted now, what was missing:\n");
    say(sent);
  }
  say_what_next(run);
  return 0;
}

}  // namespace

void keep_record_of_jobs(const RunConfig& run) {
  const fs::path record = run.run_dir / "recipe.textproto";
  if (!fs::exists(record) || sha256_hex(read_file(record)) == record_hash(run)) return;
  std::vector<Job> live;
  try {
    live = live_jobs(run);
  } catch (const EnvironmentError& error) {
    return log::warning(error.what());  // a copy on a machine without Slurm, perhaps
  }
  // A script that an earlier version has written starts from the recipe.
  const char* const own = std::getenv("SLURM_JOB_ID");
  if (own != nullptr && std::ranges::find(live, own, &Job::id) != live.end()) return;
  if (!live.empty())
    throw ConfigError("job " + live.front().id + " is to go on from the record in " +
                      run.run_dir.string() + ", which this would change; `demist cancel " +
                      run.run_dir.string() + "` first, or choose another folder with --set " +
                      "run_dir=...");
}

int submit(Launch launch, bool dry_run, const fs::path& record) {
  launch.recipe = fs::absolute(launch.recipe).lexically_normal().string();
  RunConfig run =
      record.empty() ? load_recipe(launch.recipe, launch.overrides) : load_record(record);
  // The job starts elsewhere: every path is absolute.
  run.run_dir = fs::absolute(run.run_dir).lexically_normal();
  for (StageConfig& stage : run.stages) stage.folder = run.run_dir / stage.name;
  std::erase_if(launch.overrides,
                [](const std::string& assignment) { return assignment.starts_with("run_dir="); });
  launch.overrides.push_back("run_dir=" + run.run_dir.string());
  check_names(launch);
  if (is_done(run)) {
    std::printf("every stage is done already: demist inspect %s\n", run.run_dir.c_str());
    return 0;
  }
  check_stages(run, false);  // better said now than by a job that has waited for hours
  const std::vector<Planned> planned = plan_jobs(run, launch);
  if (dry_run) {
    show(planned);
    return 0;
  }
  fs::create_directories(run.run_dir / "logs");
  constexpr double patience = 60;  // seconds; another `demist submit` waits for sbatch perhaps
  const FileLock lock(run.run_dir / "submit.lock", patience);
  refuse_unknown_jobs(run);
  const std::vector<Job> live = live_jobs(run);
  refuse_other_recipe(run, live);
  if (!live.empty()) return submit_rest(run, planned, live, launch);
  {
    const FileLock nobody_works_here(run.run_dir / "lock", kLockPatience);
    fs::remove(run.run_dir / kStopFile);
    write_record(run);
    launch.submission->since = std::floor(unix_seconds());
    write_launch(run.run_dir, launch);
  }
  forget_all_but(planned.front().plan.avoid, run.run_dir);
  say(send_all(run, planned, {}));
  say_what_next(run);
  return 0;
}

}  // namespace demist::slurm
