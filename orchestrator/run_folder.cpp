// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/run_folder.hpp"

#include <algorithm>
#include <sstream>

#include "core/checksum.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "orchestrator/nearest.hpp"
#include "orchestrator/summary.hpp"
#include "worker/checkpoint/catalog.hpp"

namespace demist {
namespace {

constexpr const char* kRecord = "recipe.textproto";
constexpr std::string_view kRecordMark =
    "# demist.record/1: attempts work from this; hashes of the recipe, of its stages, of this text";
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

std::string record_text(const RunConfig& run) {
  std::string text = std::string(kRecordMark) + "\n# " + run.hash + "\n";
  for (const StageConfig& stage : run.stages) text += "# " + stage.hash + " " + stage.name + "\n";
  return text + "# " + sha256_hex(run.resolved) + "\n" + run.resolved;
}

// Gives `run` the hashes that its record tells of; false: it was edited, and is a recipe of its
// own, or an earlier version has written it.
bool restore_hashes(const std::string& record, RunConfig& run) {
  std::istringstream lines(record);
  std::string line;
  if (!std::getline(lines, line) || line != kRecordMark) return false;
  constexpr std::size_t digits = 64;
  std::vector<std::string> hashes;
  while (lines.peek() == '#' && std::getline(lines, line) && line.size() >= digits + 2)
    hashes.push_back(line.substr(2, digits));
  const auto begin =
      static_cast<std::size_t>(std::max(std::streamoff{0}, std::streamoff(lines.tellg())));
  if (hashes.size() != run.stages.size() + 2 || hashes.back() != sha256_hex(record.substr(begin)))
    return false;
  run.hash = hashes.front();
  for (std::size_t i = 0; i < run.stages.size(); ++i) run.stages[i].hash = hashes[i + 1];
  return true;
}

}  // namespace

bool is_run_folder(const fs::path& path) {
  std::error_code unseen;
  return fs::is_regular_file(path / kRecord, unseen);
}

bool has_whole_record(const fs::path& run_dir) {
  RunConfig run;
  const std::string text = read_file(run_dir / kRecord);
  run.stages = parse_recipe(text, run_dir / kRecord).stages;
  return restore_hashes(text, run);
}

void write_record(const RunConfig& run) { update_file(run.run_dir / kRecord, record_text(run)); }

std::string record_hash(const RunConfig& run) { return sha256_hex(record_text(run)); }

bool is_record(const fs::path& recipe) {
  const std::string text = read_file(recipe);
  try {
    const std::string resolved = parse_recipe(text, recipe).resolved;
    return text == resolved || (text.starts_with(kRecordMark) && text.ends_with("\n" + resolved));
  } catch (const ConfigError&) {
    return false;  // it takes a --set to be whole
  }
}

RunConfig load_record(const fs::path& run_dir, RanksOf ranks, const std::string& expected) {
  const fs::path file = run_dir / kRecord;
  std::string text;
  try {
    text = read_file(file);
  } catch (const DataError&) {
    throw UnreadError(file.string() +
                      ": is not there, though the run was started from it; see to the disk or "
                      "mount of this machine, or start the run anew");
  }
  std::string hash = sha256_hex(text);
  if (!expected.empty() && hash != expected)
    throw ConfigError(file.string() +
                      " is not what this attempt began with: it was edited, or the run has been "
                      "started anew meanwhile, with other settings");
  RunConfig run = parse_recipe(text, file, {"run_dir=" + run_dir.string()}, ranks);
  if (!restore_hashes(text, run))
    throw ConfigError(file.string() +
                      " was edited, or written by an earlier version: start the run with its "
                      "recipe, and it goes on");
  run.record = std::move(hash);
  return run;
}

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
