// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/run_plan.hpp"

#include <algorithm>
#include <set>

#include "core/error.hpp"
#include "core/log.hpp"
#include "orchestrator/stage_output.hpp"

namespace demist {
namespace {

// Whether `user` reads the files that `made` has left, now and not by way of another stage.
bool reads(const StageConfig& user, const StageConfig& made) {
  if (std::ranges::find(user.depends_on, made.name) == user.depends_on.end()) return false;
  const auto* training = std::get_if<TrainingStage>(&user.work);
  const auto* score = std::get_if<ScoreStage>(&user.work);
  if (std::holds_alternative<TrainingStage>(made.work))
    return (training != nullptr && training->start_from == made.name) ||
           (score != nullptr && score->start_from == made.name);
  if (std::holds_alternative<CorpusStage>(made.work))
    return training != nullptr && !training->on_tasks();
  return true;
}

// A result that later stages have used up may be deleted to save space.
bool is_wanted(const RunConfig& run, const StageConfig& stage) {
  bool is_read = false;
  for (const StageConfig& other : run.stages) {
    if (!reads(other, stage)) continue;
    is_read = true;
    if (!read_done(other)) return true;
  }
  return !is_read;
}

struct Standing {
  StageStatus status = StageStatus::absent;
  std::optional<fs::path> missing;  // of a result that is wanted
};

// Throws unless the stage may be run or passed over.
Standing stand(const RunConfig& run, const StageConfig& stage, bool redo) {
  Standing standing{status_of(run, stage, stage_key(run, stage)), {}};
  if (standing.status == StageStatus::changed && !redo)
    throw ConfigError("stage " + stage.name + ": " + stage.folder.string() +
                      " holds work made with other settings or inputs; use `demist run --redo` to "
                      "delete and repeat it, or choose another run with --set run_dir=...");
  if (standing.status == StageStatus::done && (redo || is_wanted(run, stage)))
    standing.missing = missing_output(run, stage);
  if (standing.missing && !redo) refuse_lost(stage, *standing.missing);
  return standing;
}

struct NamedFile {
  std::string field;
  fs::path path;
};

// Files and folders that a stage reads and no stage of the recipe but a PREPARE stage makes.
std::vector<NamedFile> inputs_of(const RunConfig& run, const StageConfig& stage) {
  std::vector<NamedFile> files;
  if (std::holds_alternative<TokenizerStage>(stage.work))
    for (const fs::path& input : run.tokenizer.training.inputs)
      files.push_back({"tokenizer.inputs", input});
  else if (!run.tokenizer.trained && !std::holds_alternative<PrepareStage>(stage.work))
    files.push_back({"tokenizer.model", run.tokenizer.model});
  if (std::holds_alternative<CorpusStage>(stage.work))
    for (const CorpusConfig& corpus : run.corpora)
      for (const data::CorpusInput& input : corpus.build.inputs)
        files.push_back({"corpora." + corpus.build.name + ".inputs", input.path});
  std::vector<std::string> corpora, tasks;
  if (const auto* training = std::get_if<TrainingStage>(&stage.work)) {
    corpora = {training->corpus, training->held_out};
    tasks = training->tasks;
  }
  if (const auto* score = std::get_if<ScoreStage>(&stage.work)) tasks = {score->task};
  for (const std::string& name : corpora)
    if (!name.empty() && !run.corpus(name).built)
      files.push_back({"corpora." + name + ".folder", run.corpus(name).build.output});
  for (const std::string& name : tasks)
    files.push_back({"tasks." + name + ".file", run.task(name).file.path});
  return files;
}

// A task whose columns are other ones, or whose split is not there.
void require_rows(const RunConfig& run, const StageConfig& stage) {
  const auto require = [&run](const std::string& name, std::string TaskConfig::*split) {
    const TaskConfig& task = run.task(name);
    try {
      data::require_rows(task.file, task.*split);
    } catch (const DataError& error) {
      throw DataError("tasks." + name + ": " + error.what());
    }
  };
  if (const auto* training = std::get_if<TrainingStage>(&stage.work))
    for (const std::string& name : training->tasks) require(name, &TaskConfig::train_split);
  if (const auto* score = std::get_if<ScoreStage>(&stage.work))
    require(score->task, &TaskConfig::test_split);
}

}  // namespace

void require_inputs(const RunConfig& run, const std::string& only) {
  for (const StageConfig& stage : run.stages) {
    if (read_done(stage) || (!only.empty() && stage.name != only)) continue;
    if (std::holds_alternative<PrepareStage>(stage.work)) return;
    for (const auto& [field, path] : inputs_of(run, stage)) {
      std::error_code unknown;
      if (fs::status(path, unknown).type() == fs::file_type::not_found)
        throw DataError(field + ": " + path.string() + " is not there, and stage " + stage.name +
                        " reads it; put it there, or name another file");
    }
    require_rows(run, stage);
  }
}

std::optional<fs::path> newer_input(const RunConfig& run, const StageConfig& stage) {
  std::error_code unknown;
  const auto done = fs::last_write_time(stage.folder / "done.json", unknown);
  if (unknown) return std::nullopt;
  for (const auto& [field, path] : inputs_of(run, stage)) {
    const auto written = fs::last_write_time(path, unknown);
    if (!unknown && written > done) return path;
  }
  return std::nullopt;
}

void check_stages(const RunConfig& run, bool redo) {
  std::set<std::string> open;  // stages with work to do, and what depends on them
  for (const StageConfig& stage : run.stages) {
    const bool settled = std::ranges::none_of(
        stage.depends_on, [&](const std::string& name) { return open.contains(name); });
    if (settled) {
      const Standing standing = stand(run, stage, redo);
      if (standing.status == StageStatus::done && !standing.missing) continue;
    }
    open.insert(stage.name);
  }
}

StageStatus require_sound(const RunConfig& run, const StageConfig& stage) {
  return stand(run, stage, /*redo=*/false).status;
}

StageStatus make_ready(const RunConfig& run, const StageConfig& stage, bool redo) {
  const Standing standing = stand(run, stage, redo);
  if (standing.status == StageStatus::changed) {
    log::info("stage " + stage.name + ": made with other settings or inputs; doing it again");
    forget(run, stage);
    return StageStatus::absent;
  }
  if (!standing.missing) return standing.status;
  log::info("stage " + stage.name + ": " + standing.missing->string() +
            " is missing; making it again");
  reopen(stage);
  return StageStatus::started;
}

}  // namespace demist
