// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/run_folder.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "core/file.hpp"
#include "orchestrator/nearest.hpp"
#include "orchestrator/summary.hpp"
#include "worker/checkpoint/catalog.hpp"

namespace demist {
namespace {

constexpr const char* kRecord = "recipe.textproto";
constexpr const char* kRemedy = "; name a checkpoint, a stage's folder or a run folder";

bool is_checkpoint(const fs::path& path) { return fs::exists(path / "MANIFEST.json"); }

// The run as it lies there now: it may have been moved since its record was written.
RunConfig run_of(const fs::path& folder) {
  return load_recipe(folder / kRecord, {"run_dir=" + fs::absolute(folder).string()});
}

std::vector<std::string> folders(const std::vector<const StageConfig*>& stages) {
  std::vector<std::string> names;
  for (const StageConfig* stage : stages) names.push_back(stage->folder.string());
  return names;
}

// The stage whose model is the run's result: trained to the end, and no other one starts from it.
fs::path model_of_run(const fs::path& folder) {
  const RunConfig run = run_of(folder);
  std::vector<const StageConfig*> begun, results;
  for (const StageConfig& stage : run.stages) {
    const auto* work = std::get_if<TrainingStage>(&stage.work);
    if (work == nullptr || checkpoint::list_entries(stage.checkpoints()).empty()) continue;
    begun.push_back(&stage);
    if (!read_done(stage)) continue;
    std::erase_if(results, [&](const StageConfig* s) { return s->name == work->start_from; });
    results.push_back(&stage);
  }
  if (results.size() == 1) return results.front()->checkpoints();
  if (results.size() > 1)
    throw ConfigError(folder.string() + " holds several models; name one of " +
                      join(folders(results), ", "));
  if (begun.empty())
    throw ConfigError(folder.string() +
                      " is a run that has no checkpoint yet; `demist run` its "
                      "recipe first");
  throw ConfigError(folder.string() + " is a run without a finished training stage; to use an " +
                    "unfinished one name " + join(folders(begun), " or "));
}

}  // namespace

bool is_run_folder(const fs::path& path) { return fs::is_regular_file(path / kRecord); }

void write_record(const RunConfig& run) { atomic_write(run.run_dir / kRecord, run.resolved); }

fs::path find_model(const fs::path& given) {
  if (!fs::exists(given)) throw ConfigError(given.string() + " does not exist" + kRemedy);
  if (!fs::is_directory(given)) {
    const fs::path around = fs::absolute(given).parent_path();
    if (is_checkpoint(around)) return around;
    throw ConfigError(given.string() + " is a file, and a model is a folder" + kRemedy);
  }
  if (is_checkpoint(given) || !checkpoint::list_entries(given).empty()) return given;
  if (!checkpoint::list_entries(given / "checkpoints").empty()) return given / "checkpoints";
  if (is_run_folder(given)) return model_of_run(given);
  if (given.filename().string().starts_with("step-")) return given;  // the reader says what lacks
  throw ConfigError(given.string() + " holds no checkpoint" + kRemedy);
}

std::vector<fs::path> checkpoint_folders(const fs::path& given) {
  if (!fs::exists(given)) throw ConfigError(given.string() + " does not exist" + kRemedy);
  std::vector<fs::path> candidates{given, given / "checkpoints"};
  if (is_run_folder(given))
    for (const StageConfig& stage : run_of(given).stages)
      candidates.push_back(given / stage.name / "checkpoints");
  std::erase_if(candidates,
                [](const fs::path& folder) { return checkpoint::list_entries(folder).empty(); });
  if (candidates.empty()) throw ConfigError(given.string() + " holds no checkpoint" + kRemedy);
  return candidates;
}

std::vector<checkpoint::Entry> checkpoints_in(const fs::path& given) {
  std::error_code absent;
  if (const auto entry = checkpoint::entry_at(fs::canonical(given, absent))) return {*entry};
  std::vector<checkpoint::Entry> all;
  for (const fs::path& folder : checkpoint_folders(given)) {
    const auto entries = checkpoint::list_entries(folder);
    all.insert(all.end(), entries.begin(), entries.end());
  }
  return all;
}

std::optional<checkpoint::Retention> retention_of(const fs::path& folder) {
  const fs::path around = fs::canonical(fs::absolute(folder)).parent_path();
  if (!is_run_folder(around.parent_path())) return {};
  const RunConfig run = run_of(around.parent_path());
  for (const StageConfig& stage : run.stages)
    if (stage.name == around.filename()) return retention_of(run, stage);
  return run.keep;
}

std::string describe_run(const fs::path& folder) {
  const RunConfig run = run_of(folder);
  RunSummary summary{run.name, run.hash, {}};
  std::vector<std::string> unfinished, waiting;
  for (const StageConfig& stage : run.stages) {
    if (const auto done = read_done(stage)) {
      summary.stages.emplace_back(stage.name, *done);
    } else if (auto started = read_started(stage)) {
      started->seconds = seconds_spent(stage, *started);
      summary.stages.emplace_back(stage.name, *started);
      unfinished.push_back(stage.name);
    } else {
      waiting.push_back(stage.name);
    }
  }
  std::string text =
      "run         " + run.name + " in " + folder.string() + "\n\n" + format_table(summary);
  if (!unfinished.empty()) text += "\nunfinished  " + join(unfinished, ", ") + "\n";
  if (!waiting.empty()) text += "\nnot begun   " + join(waiting, ", ") + "\n";
  return text;
}

}  // namespace demist
