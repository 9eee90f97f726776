// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <limits>

#include "core/error.hpp"
#include "orchestrator/config_recipe.hpp"

namespace demist::config {
namespace {

// Defaults are written as a recipe would write them; what the user set wins.
template <class Message>
void complete(Message* message, const std::string& defaults) {
  Message whole;
  ensure(pb::TextFormat::ParseFromString(defaults, &whole), "default values do not parse");
  whole.MergeFrom(*message);
  message->Swap(&whole);
}

constexpr const char* kTraining = R"(
  batch { micro_batches: 1 max_tokens: 4096 }
  optimizer { warmup_steps: 0 final_fraction: 0 beta1: 0.9 beta2: 0.98 epsilon: 1e-6
              weight_decay: 0.01 clip_norm: 1 }
  guard { bad_in_a_row: 3 rollbacks: 2 window: 128 loss_spike: 0 norm_spike: 0 })";
constexpr const char* kMeasured = R"(evaluate { every_steps: 0 micro_batches: 8 })";
constexpr const char* kPretrain = R"(batch { sequence_length: 512 } language_alpha: 1)";
constexpr const char* kMlm =
    R"(mlm { mask_fraction: 0.15 keep_fraction: 0.1 random_fraction: 0.1 })";
constexpr const char* kRdm = R"(rdm { time_steps: 50 coupled: true label_smoothing: 0 })";
constexpr const char* kScore = R"(
  decoding { steps: 10 temperature: 0 stochastic: 0 length_tokens: 0 max_tokens: 4096 } samples: 10 limit: 0)";

// As far as the field can hold it: what is too large is refused later, by its own name.
std::int32_t four_times(std::int32_t width) {
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  return static_cast<std::int32_t>(std::clamp<std::int64_t>(std::int64_t{4} * width, -most, most));
}

void complete_training(recipe::Stage& stage, const recipe::Model& model) {
  complete(&stage, kTraining);
  if (!stage.has_hidden_dropout()) stage.set_hidden_dropout(model.hidden_dropout());
  if (!stage.has_attention_dropout()) stage.set_attention_dropout(model.attention_dropout());
  const bool pretrain = stage.kind() == recipe::Stage::PRETRAIN;
  if (pretrain) complete(&stage, kPretrain);
  if (!pretrain || !stage.held_out().empty()) complete(&stage, kMeasured);
  complete(&stage, pretrain && !stage.has_rdm() ? kMlm : kRdm);
}

}  // namespace

void apply_defaults(recipe::Recipe& recipe) {
  if (!recipe.has_seed()) recipe.set_seed(1);
  if (recipe.run_dir().empty()) recipe.set_run_dir("runs/" + recipe.name());
  if (recipe.tokenizer().model().empty())
    complete(recipe.mutable_tokenizer(), "pieces: 8000 character_coverage: 0.9995 max_bytes: 0");
  for (recipe::Corpus& corpus : *recipe.mutable_corpora()) {
    if (corpus.folder().empty()) complete(&corpus, "range_bytes: 16777216 max_invalid: 0.01");
    for (recipe::Corpus::Input& input : *corpus.mutable_inputs()) {
      complete(&input, "language: 'und'");
      if (input.format() == recipe::Corpus::Input::JSONL) complete(&input, "json_field: 'text'");
    }
  }
  for (recipe::Task& task : *recipe.mutable_tasks())
    complete(&task,
             "prompt: '0' response: '1' template: '{prompt}' train: 'train' valid: 'valid' "
             "test: 'test' limit: 0 max_length: 512 ratio: 1");
  complete(recipe.mutable_model(),
           "positions: 514 hidden_dropout: 0.1 attention_dropout: 0.1 init_stddev: 0.02 ffn: " +
               std::to_string(four_times(recipe.model().hidden())));
  complete(recipe.mutable_parallel(),
           "ranks: 1 tensor: 1 threads: 0 tune_products: false peak_gflops: 0");
  complete(recipe.mutable_checkpoint(),
           "every_steps: 0 keep_last: 2 keep_every_steps: 0 keep_best: 0");
  complete(recipe.mutable_recovery(),
           "attempts: 3 delay_seconds: 5 longest_delay_seconds: 300 min_ranks: 0 hang_factor: 2 "
           "self_check_every_steps: 0");
  for (recipe::Stage& stage : *recipe.mutable_stages()) {
    if (stage.kind() == recipe::Stage::PRETRAIN || stage.kind() == recipe::Stage::ADAPT)
      complete_training(stage, recipe.model());
    if (stage.kind() == recipe::Stage::SCORE) complete(&stage, kScore);
  }
}

}  // namespace demist::config
