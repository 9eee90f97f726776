// A recipe as values that cannot be wrong: parsed, checked and completed once, then read only.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "core/tensor.hpp"
#include "data/corpus.hpp"
#include "data/source.hpp"
#include "data/tokenizer.hpp"
#include "worker/attention_rules.hpp"
#include "worker/checkpoint/retention.hpp"
#include "worker/config.hpp"
#include "worker/device.hpp"
#include "worker/evaluate/baseline.hpp"
#include "worker/generate/sampler.hpp"
#include "worker/step_guard.hpp"

namespace demist {

namespace fs = std::filesystem;

struct TokenizerConfig {
  data::TokenizerTraining training;
  fs::path model;        // trained there, or an existing file
  bool trained = false;  // by this recipe's TOKENIZER stage
};

struct CorpusConfig {
  data::CorpusBuild build;  // .output is the corpus folder
  bool built = false;       // by this recipe's CORPUS stage
};

struct TaskConfig {
  std::string name;
  data::TaskFile file;
  std::string train_split, valid_split, test_split;
  std::uint64_t limit = 0;  // training pairs; 0: all
  std::int32_t max_length = 512;
};

struct PrepareStage {
  std::vector<std::string> command;
  fs::path product;
};
struct TokenizerStage {};
struct CorpusStage {};

struct TrainingStage {
  std::string start_from;          // empty: scratch
  std::string corpus;              // PRETRAIN
  std::string held_out;            // PRETRAIN: corpus name, or empty
  std::vector<std::string> tasks;  // ADAPT
  std::int64_t steps = 0;
  data::BatchShape batch;
  OptimizerConfig optimizer;
  GuardConfig guard;
  std::int32_t rollbacks = 0;
  data::Noise noise;
  float hidden_dropout = 0, attention_dropout = 0;
  bool document_mask = false;
  double language_alpha = 1;
  std::int64_t evaluate_every = 0;  // 0: before and after only
  std::int32_t held_out_micro_batches = 0;
  bool on_tasks() const { return !tasks.empty(); }
};

enum class Metric { rouge_l, bleu };
struct ScoreStage {
  std::string start_from, task;
  generate::SamplerOptions sampler;  // mask_id and seed are filled in when it runs
  std::int32_t fixed_length = 0;     // 0: the reference's length
  std::int64_t max_tokens = 4096;    // decoded together
  Metric metric = Metric::rouge_l;
  evaluate::Baseline baseline = evaluate::Baseline::lead;
  std::int32_t samples = 10;
  std::uint64_t limit = 0;
};

using StageWork =
    std::variant<PrepareStage, TokenizerStage, CorpusStage, TrainingStage, ScoreStage>;
struct StageConfig {
  std::string name;
  StageWork work;
  fs::path folder;   // <run>/<name>
  std::string hash;  // SHA-256 of every setting that its result depends on, earlier stages included
  std::vector<std::string> depends_on;  // earlier stages whose results it uses, in order
  fs::path checkpoints() const { return folder / "checkpoints"; }
  fs::path device_plan() const { return folder / "device_plan.json"; }  // of training stages
};

// What `demist run` does when an attempt at a stage fails.
struct RecoveryConfig {
  int attempts = 3;  // without a new step, then it gives up
  double delay_seconds = 5, longest_delay_seconds = 300;
  int min_ranks = 0;                  // 0: always as many as at first
  double hang_factor = 2;             // of the slowest recent step; 0: no rank counts as hung
  std::int64_t self_check_every = 0;  // steps; 0: never
};

struct RunConfig {
  std::string name;
  std::uint64_t seed = 1;
  fs::path run_dir;
  TokenizerConfig tokenizer;
  std::vector<CorpusConfig> corpora;
  std::vector<TaskConfig> tasks;
  ModelConfig model;  // vocab 0: known when the tokenizer is
  DType compute = DType::bf16;
  Reduction reduction = Reduction::exact;
  int ranks = 1, tensor_parallel = 1, threads = 0;  // threads 0: cores / ranks
  DeviceKind device = DeviceKind::automatic;
  Recompute recompute = Recompute::none;
  bool tune_products = false;
  AttentionWish attention = AttentionWish::automatic;
  double peak_gflops = 0;             // 0: measured on CPUs, else unknown
  std::int64_t checkpoint_every = 0;  // 0: at the end only
  checkpoint::Retention keep;
  RecoveryConfig recovery;
  std::vector<StageConfig> stages;
  std::string resolved;  // the whole recipe as text, defaults and overrides filled in
  std::string hash;      // SHA-256 of what changes results: not ranks, threads, folders, cadence
  std::string record;    // SHA-256 of the run folder's record that this was read from; else empty

  const StageConfig& stage(const std::string& name) const;  // throws ConfigError naming the stages
  const CorpusConfig& corpus(const std::string& name) const;
  const TaskConfig& task(const std::string& name) const;
};

// What a stage keeps of its checkpoints: the recipe's rules, and what training may go back to.
checkpoint::Retention retention_of(const RunConfig& run, const StageConfig& stage);

// Who decides how many ranks there are: the recipe's parallel.ranks, or the mpirun or srun that has
// started them already, whatever the recipe says.
enum class RanksOf { recipe, launcher };

// Reads a recipe and applies "path=value" overrides in order. Throws ConfigError:
// "file:line:column: field: problem; remedy", and UnreadError for a file that the system does not
// read.
RunConfig load_recipe(const fs::path& file, const std::vector<std::string>& overrides = {},
                      RanksOf ranks = RanksOf::recipe);
// The same for text that came from `file` (its folder anchors relative paths).
RunConfig parse_recipe(const std::string& text, const fs::path& file,
                       const std::vector<std::string>& overrides = {},
                       RanksOf ranks = RanksOf::recipe);

// The file a user means by "quickstart": itself, configs/quickstart.textproto below the current
// folder, or the same below the installed share folder. Throws ConfigError naming where it looked.
fs::path find_recipe(const std::string& name);

}  // namespace demist
