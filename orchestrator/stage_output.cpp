// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/stage_output.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "data/corpus.hpp"
#include "worker/checkpoint/catalog.hpp"
#include "worker/checkpoint/checkpoint.hpp"
#include "worker/checkpoint/manifest.hpp"

namespace demist {
namespace {

std::optional<fs::path> unless_it_exists(const fs::path& path) {
  if (fs::exists(path)) return std::nullopt;
  return path;
}

std::optional<fs::path> missing_part(const RunConfig& run) {
  for (const CorpusConfig& corpus : run.corpora)
    if (corpus.built)
      if (auto part = data::missing_part(corpus.build.output)) return part;
  return std::nullopt;
}

fs::path end_of(const StageConfig& stage) {
  return stage.checkpoints() /
         checkpoint::directory_name(std::get<TrainingStage>(stage.work).steps);
}

std::optional<fs::path> missing_end(const StageConfig& stage) {
  const std::int64_t steps = std::get<TrainingStage>(stage.work).steps;
  const auto entries = checkpoint::list_entries(stage.checkpoints());
  const bool there = std::ranges::any_of(entries, [&](const checkpoint::Entry& entry) {
    return entry.step == steps && fs::exists(entry.path / checkpoint::kManifestName);
  });
  if (there) return std::nullopt;
  return end_of(stage);
}

}  // namespace

std::optional<fs::path> missing_output(const RunConfig& run, const StageConfig& stage) {
  if (const auto* work = std::get_if<PrepareStage>(&stage.work))
    return unless_it_exists(work->product);
  if (std::holds_alternative<TokenizerStage>(stage.work))
    return unless_it_exists(run.tokenizer.model);
  if (std::holds_alternative<CorpusStage>(stage.work)) return missing_part(run);
  if (std::holds_alternative<TrainingStage>(stage.work)) return missing_end(stage);
  return unless_it_exists(stage.folder / "samples.jsonl");
}

void refuse_lost(const StageConfig& stage, const fs::path& missing) {
  const std::string what = "stage " + stage.name + " is done, but " + missing.string() +
                           " is missing or cut short; restore it, or use `demist run --redo` to "
                           "make it again";
  if (std::holds_alternative<TrainingStage>(stage.work)) throw CheckpointError(what);
  throw DataError(what);
}

fs::path final_checkpoint(const mpi::Comm& world, const StageConfig& stage) {
  std::string directory;
  const std::string phase = "open the result of stage " + stage.name;
  mpi::together_alike(world, phase, [&] {
    if (const auto missing = missing_end(stage)) refuse_lost(stage, *missing);
  });
  mpi::together(world, phase, [&] {
    if (world.rank() != 0) return;
    const std::int64_t steps = std::get<TrainingStage>(stage.work).steps;
    try {
      directory = checkpoint::open_step(stage.checkpoints(), steps).directory().string();
    } catch (const CheckpointError& error) {
      throw CheckpointError("stage " + stage.name + " is done, but its result is damaged: " +
                            error.what() + ", or delete " + end_of(stage).string() +
                            " and use `demist run --redo` to make it again");
    }
  });
  return world.size() == 1 ? directory : world.broadcast(directory, 0);
}

}  // namespace demist
