// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/stage_data.hpp"

#include <nlohmann/json.hpp>

#include "core/checksum.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"

namespace demist {
namespace {

// A held-out set is one step of its own stream with the training noise, unsmoothed.
data::Noise held_out_noise(data::Noise noise) {
  if (auto* rdm = std::get_if<data::RdmNoise>(&noise)) rdm->label_smoothing = 0;
  return noise;
}
data::BatchShape held_out_shape(const TrainingStage& stage) {
  data::BatchShape shape = stage.batch;
  shape.micro_batches = stage.held_out_micro_batches;
  return shape;
}

std::shared_ptr<const data::Corpus> open_corpus(const RunConfig& run, const std::string& name,
                                                const data::Tokenizer& tokenizer) {
  const fs::path& folder = run.corpus(name).build.output;
  auto corpus = std::make_shared<const data::Corpus>(folder);
  corpus->require_tokenizer(tokenizer);
  return corpus;
}

void open_corpora(const RunConfig& run, const TrainingStage& stage,
                  const data::Tokenizer& tokenizer, StageData& data) {
  data::PackedOptions options;
  options.batch = stage.batch;
  options.noise = stage.noise;
  options.document_mask = stage.document_mask;
  options.language_alpha = stage.language_alpha;
  options.seed = run.seed;
  options.mask_id = tokenizer.mask_id();
  options.vocab_size = tokenizer.vocab_size();
  const auto corpus = open_corpus(run, stage.corpus, tokenizer);
  data.data_hash = corpus->hash();
  data.train = data::make_packed_source(corpus, options);
  if (stage.held_out.empty()) return;
  options.batch = held_out_shape(stage);
  options.noise = held_out_noise(stage.noise);
  options.language_alpha = 1;
  options.stream = "held_out";
  data.held_out = data::make_packed_source(open_corpus(run, stage.held_out, tokenizer), options);
}

std::string file_hash(const fs::path& path) {
  Sha256 hash;
  hash.update(MappedFile(path).bytes());
  return hash.hex();
}

std::shared_ptr<const data::Source> task_source(std::vector<data::Task> tasks,
                                                const std::vector<double>& ratios,
                                                const data::TaskOptions& options) {
  return data::make_task_source(std::move(tasks), ratios, options);
}

void open_tasks(const RunConfig& run, const TrainingStage& stage, const data::Tokenizer& tokenizer,
                StageData& data) {
  std::vector<data::Task> train, valid;
  std::vector<double> ratios, valid_ratios;
  std::string hashes;
  for (const std::string& name : stage.tasks) {
    const TaskConfig& task = run.task(name);
    train.push_back(
        data::read_task(task.file, task.train_split, tokenizer, task.max_length, task.limit));
    ratios.push_back(task.file.ratio);
    data::require_pairs(train.back(), task.file, task.train_split, task.max_length);
    log::info("task " + name + ": " + std::to_string(train.back().examples.size()) +
              " training pairs, " + std::to_string(train.back().skipped) + " left out");
    data::Task held_out =
        data::read_task(task.file, task.valid_split, tokenizer, task.max_length, 0);
    if (held_out.examples.empty()) {
      log::warning("task " + name + ": no pair in split '" + task.valid_split +
                   "': it has no part in the held-out loss");
    } else {
      valid.push_back(std::move(held_out));
      valid_ratios.push_back(task.file.ratio);
    }
    hashes += file_hash(task.file.path) + "\n";
  }
  data::TaskOptions options{stage.batch, std::get<data::RdmNoise>(stage.noise), run.seed, "adapt",
                            tokenizer.mask_id()};
  data.data_hash = sha256_hex(hashes);
  data.train = task_source(std::move(train), ratios, options);
  if (valid.empty()) return;
  options.batch = held_out_shape(stage);
  options.noise = std::get<data::RdmNoise>(held_out_noise(stage.noise));
  options.stream = "held_out";
  data.held_out = task_source(std::move(valid), valid_ratios, options);
}

}  // namespace

std::string noise_to_json(const data::Noise& noise, std::int32_t mask_id) {
  nlohmann::ordered_json json{{"mask_id", mask_id}};
  if (const auto* mlm = std::get_if<data::MlmNoise>(&noise)) {
    json["kind"] = "mlm";
    json["mask_fraction"] = mlm->mask_fraction;
    json["keep_fraction"] = mlm->keep_fraction;
    json["random_fraction"] = mlm->random_fraction;
  } else {
    const auto& rdm = std::get<data::RdmNoise>(noise);
    static constexpr const char* weights[] = {"linear", "reciprocal", "constant"};
    json["kind"] = "rdm";
    json["time_steps"] = rdm.steps;
    json["weight"] = weights[static_cast<int>(rdm.weight)];
    json["stratified"] = rdm.sampling == data::TimeSampling::stratified;
    json["coupled"] = rdm.coupled;
    json["label_smoothing"] = rdm.label_smoothing;
  }
  return json.dump();
}

StageData open_stage_data(const RunConfig& run, const TrainingStage& stage) {
  const data::Tokenizer tokenizer(run.tokenizer.model);
  StageData data;
  data.vocab = tokenizer.vocab_size();
  data.tokenizer_hash = tokenizer.hash();
  data.noise_json = noise_to_json(stage.noise, tokenizer.mask_id());
  if (stage.on_tasks())
    open_tasks(run, stage, tokenizer, data);
  else
    open_corpora(run, stage, tokenizer, data);
  return data;
}

}  // namespace demist
