// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/error.hpp"
#include "orchestrator/bad_nodes.hpp"
#include "orchestrator/commands/commands.hpp"
#include "orchestrator/goodput.hpp"
#include "orchestrator/run_folder.hpp"
#include "orchestrator/slurm/run_facts.hpp"
#include "orchestrator/stage_state.hpp"

namespace demist::cli {
namespace {

using nlohmann::ordered_json;
using slurm::Inspection;

const char* stage_word(const Inspection& found, const StageConfig& stage) {
  if (read_done(stage)) return "done";
  if (stage.name == found.facts.progress.stage) return "begun";
  return "waits";
}

ordered_json to_json(const Goodput& goodput) {
  return {{"share", goodput.share()}, {"useful", goodput.useful},
          {"start", goodput.start},   {"data_wait", goodput.data_wait},
          {"save", goodput.save},     {"evaluate", goodput.evaluate},
          {"lost", goodput.lost},     {"other", goodput.other},
          {"queued", goodput.queued}, {"idle", goodput.idle}};
}

ordered_json to_json(const fs::path& folder, const Inspection& found) {
  const slurm::RunState state = slurm::judge(found.facts);
  const slurm::RunProgress& p = found.facts.progress;
  ordered_json json{{"run", folder.string()},
                    {"state", slurm::name_of(state.activity)},
                    {"detail", state.detail}};
  if (!p.stage.empty()) json["stage"] = p.stage;
  if (p.training)
    json.update({{"step", p.step},
                 {"steps", p.steps},
                 {"loss", p.loss},
                 {"tokens_per_second", p.tokens_per_second},
                 {"eta_seconds", p.seconds_per_step * static_cast<double>(p.steps - p.step)}});
  ordered_json stages = ordered_json::object(), jobs = ordered_json::array();
  for (const StageConfig& stage : found.run.stages) stages[stage.name] = stage_word(found, stage);
  for (const slurm::Job& job : found.jobs) {
    ordered_json row{{"job", job.id}, {"submitted", job.submitted}, {"nodes", job.nodes}};
    if (!job.stage.empty()) row["stage"] = job.stage;
    if (const auto* queued = found.queue.find(job))
      row.update({{"state", queued->state},
                  {"reason", queued->reason},
                  {"on", queued->nodes},
                  {"restarts", queued->restarts}});
    else if (found.queue.untold.contains(job.id))
      row.update({{"state", "UNKNOWN"}, {"reason", found.queue.untold.at(job.id)}});
    jobs.push_back(row);
  }
  if (found.unsent.jobs > 0)
    json["not_submitted"] = {{"jobs", found.unsent.jobs}, {"stages", found.unsent.stages}};
  json["goodput"] = to_json(goodput_of(folder));
  json["stages"] = stages;
  json["jobs"] = jobs;
  json["avoided_nodes"] = read_bad_nodes(folder);
  return json;
}

std::string to_text(const fs::path& folder, const Inspection& found, const Goodput& goodput) {
  const slurm::RunState state = slurm::judge(found.facts);
  std::string text = folder.string() + ": " + slurm::describe(state, found.facts) + "\n  stages";
  for (const StageConfig& stage : found.run.stages)
    text += "  " + stage.name + " " + stage_word(found, stage);
  text += "\n";
  for (const slurm::Job& job : found.jobs) {
    const auto* row = found.queue.find(job);
    if (row == nullptr) {
      if (found.queue.untold.contains(job.id))
        text += "  job " + job.id + "  UNKNOWN (" + found.queue.untold.at(job.id) + ")\n";
      continue;
    }
    text +=
        "  job " + job.id + (job.stage.empty() ? "" : " (" + job.stage + ")") + "  " + row->state;
    if (row->reason != "None") text += " (" + row->reason + ")";
    if (!row->nodes.empty()) text += " on " + row->nodes;
    if (row->restarts > 0) text += ", restarted " + std::to_string(row->restarts) + " times";
    text += "\n";
  }
  if (found.unsent.jobs > 0)
    text += "  not submitted: " + found.unsent.text() + "; demist resume " + folder.string() +
            "  submits what is missing\n";
  if (const auto worker = slurm::worker_of(found.facts); worker && !state.is_over())
    text += "  process " + std::to_string(worker->process) + " on " + worker->host +
            (worker->by_hand ? ", started by hand" : "") + "\n";
  if (goodput.working() > 0) text += "  " + format(goodput) + "\n";
  for (const std::string& node : read_bad_nodes(folder))
    text += "  node " + node + " is avoided (" + (folder / "bad-nodes").string() + ")\n";
  if (state.activity == slurm::Activity::failed)
    text += "  demist logs " + folder.string() + " --errors  shows what the failing rank said\n";
  return text;
}

std::vector<fs::path> all_runs() {
  std::vector<fs::path> runs;
  std::error_code none;  // no runs/ here
  for (const auto& entry : fs::directory_iterator("runs", none))
    if (is_run_folder(entry.path())) runs.push_back(entry.path());
  std::sort(runs.begin(), runs.end());
  if (runs.empty())
    throw ConfigError("there are no runs in runs/; name a run folder: demist status FOLDER");
  return runs;
}

void print(const ordered_json& json) {
  // The name of a folder may be no UTF-8.
  std::printf("%s\n", json.dump(1, ' ', false, ordered_json::error_handler_t::replace).c_str());
}

void show_one(const fs::path& run, bool as_json, ordered_json& list) {
  const Inspection found = slurm::inspect_run(run);
  if (as_json)
    list.push_back(to_json(run, found));
  else
    std::fputs(to_text(run, found, goodput_of(run)).c_str(), stdout);
}

void show(const std::vector<fs::path>& runs, bool as_json) {
  ordered_json list = ordered_json::array();
  for (const fs::path& run : runs) show_one(run, as_json, list);
  if (as_json) print(list.size() == 1 ? list[0] : list);
}

// One that another version made, or that is damaged, does not hide those after it.
void show_all(bool as_json) {
  ordered_json list = ordered_json::array();
  for (const fs::path& run : all_runs()) {
    try {
      show_one(run, as_json, list);
    } catch (const std::exception& error) {  // of the file system, too
      list.push_back({{"run", run.string()}, {"state", "UNREADABLE"}, {"detail", error.what()}});
      if (!as_json) std::printf("%s: UNREADABLE (%s)\n", run.c_str(), error.what());
    }
  }
  if (as_json) print(list);
}

// Draws in place until the run is over.
int watch(const fs::path& run) {
  const bool terminal = ::isatty(STDOUT_FILENO) != 0;
  GoodputReader goodput(run);
  slurm::Inspector inspector(run);
  std::string last;
  while (true) {
    const Inspection found = inspector.look();
    const std::string text = to_text(run, found, goodput.read());
    if (terminal)
      std::printf("\x1b[H\x1b[2J%s", text.c_str());
    else if (text != last)
      std::fputs(text.c_str(), stdout);
    std::fflush(stdout);
    last = text;
    if (slurm::judge(found.facts).is_over()) return 0;
    std::this_thread::sleep_for(std::chrono::seconds(found.jobs.empty() ? 1 : 5));
  }
}

}  // namespace

int status(const Arguments& arguments, const mpi::Comm&) {
  Options options("demist status [RUN] [options]",
                  "What a run is doing: from its folder, and from Slurm when it was submitted.\n"
                  "RUN is a run folder or the name of one in runs/; without it, all of those.");
  options.rest("RUN", 0)
      .flag("watch", "stay, and show changes until the run is over")
      .flag("json", "for programs: one object, or a list without RUN");
  if (!options.parse(arguments)) return 0;
  std::vector<fs::path> runs;
  for (const std::string& name : options.positionals()) runs.push_back(slurm::find_run(name));
  if (options.has("watch")) {
    if (options.has("json"))
      throw ConfigError("--watch is for people; programs ask again with --json");
    if (runs.size() != 1) throw ConfigError("--watch needs one RUN");
    return watch(runs.front());
  }
  if (runs.empty())
    show_all(options.has("json"));
  else
    show(runs, options.has("json"));
  return 0;
}

}  // namespace demist::cli
