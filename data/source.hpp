// Where micro-batches come from: step and index in, the same MicroBatch out, on any rank.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "data/corpus.hpp"
#include "data/micro_batch.hpp"
#include "data/tokenizer.hpp"

namespace demist::data {

// Masked LM corruption (method, section 2.1).
struct MlmNoise {
  double mask_fraction = 0.15;   // int(fraction * n + u) positions, without replacement
  double keep_fraction = 0.1;    // of the selected: left unchanged
  double random_fraction = 0.1;  // of the selected: uniform over ids >= 4
};

enum class TimeWeight { linear, reciprocal, constant };  // 1 - (t-1)/T, 1/t, 1
enum class TimeSampling { stratified, independent };

// Coupled reparameterized diffusion (method, section 3.3).
struct RdmNoise {
  std::int32_t steps = 50;  // T
  TimeWeight weight = TimeWeight::linear;
  TimeSampling sampling = TimeSampling::stratified;
  bool coupled = true;         // two copies of each sample at t1 >= t2; else one at uniform t
  double label_smoothing = 0;  // eps of section 3.3, item 5
};
using Noise = std::variant<MlmNoise, RdmNoise>;

// What one training step is made of.
struct BatchShape {
  std::int32_t micro_batches = 1;  // a step
  std::int64_t max_tokens = 512;   // of one micro-batch, padding and coupled copies included
  std::int32_t sequence_length = 128;
};

// An endless sequence of steps. make() is pure and thread-safe; steps count from 0.
class Source {
 public:
  virtual ~Source() = default;
  virtual MicroBatch make(std::int64_t step, std::int32_t index) const = 0;
  virtual std::int32_t micro_batches() const = 0;
  // Largest rows * cols that make() returns, and the most targets: buffers are planned by them.
  virtual std::int64_t max_tokens() const = 0;
  virtual std::int64_t max_targets() const = 0;
  // Most rows; without better knowledge, one a token.
  virtual std::int64_t max_rows() const { return max_tokens(); }
  // Columns of every micro-batch, where all have as many and every token sees its whole row; else
  // 0.
  virtual std::int64_t whole_columns() const { return 0; }
};

// Of both, where they have as many; else 0. held_out may be null.
inline std::int64_t whole_columns(const Source& source, const Source* held_out) {
  const std::int64_t columns = source.whole_columns();
  return held_out == nullptr || held_out->whole_columns() == columns ? columns : 0;
}

struct PackedOptions {
  BatchShape batch;
  Noise noise = MlmNoise{};
  bool document_mask = false;   // attention inside a document only; positions restart at each
  double language_alpha = 1.0;  // q_l ~ (share of blocks)^alpha
  std::uint64_t window_blocks = 4096;
  std::uint64_t seed = 0;
  std::string stream = "pretrain";  // separates stages that share a seed
  std::int32_t mask_id = 0;
  std::int32_t vocab_size = 0;  // random replacements are below it
};
// Blocks of sequence_length tokens: <s> then sequence_length - 1 corpus tokens, contiguous in the
// shard. A shard's tail shorter than a block is left out of the epoch.
std::unique_ptr<Source> make_packed_source(std::shared_ptr<const Corpus> corpus,
                                           const PackedOptions& options);

// A prompt-response pair as ids, without specials: <s> prompt response </s> (method, section 3.4).
struct TaskExample {
  std::vector<std::int32_t> prompt;
  std::vector<std::int32_t> response;
};

struct TaskFile {
  std::filesystem::path path;  // TSV or JSONL, gzip and zstd too
  // TSV: 0-based columns; JSONL: fields. All digits mean a column; one file has one kind.
  std::string prompt_field = "0", response_field = "1";
  std::string split_field;                   // empty: every row belongs
  std::string prompt_template = "{prompt}";  // {prompt} is replaced by the field's text
  double ratio = 1.0;                        // share in a mixture
  double max_invalid_fraction = 0.01;        // more malformed rows than this is an error
};

struct Task {
  std::vector<TaskExample> examples;
  std::vector<std::string> prompts, references;  // the raw text, for evaluation
  std::uint64_t skipped = 0;                     // malformed or too long: counted, reported
};
// Rows whose split is `split`, in file order. Pairs longer than max_length tokens (all specials
// counted) are left out. `limit` > 0 keeps the first `limit` rows of a keyed shuffle. More than
// max_invalid_fraction malformed rows throw DataError naming file and line of the first. There may
// be no pair at all: then require_pairs() says so, where that is an error.
Task read_task(const TaskFile& file, const std::string& split, const Tokenizer& tokenizer,
               std::int32_t max_length, std::uint64_t limit = 0);
// Throws DataError where the file has no usable row of that split, as read_task() and
// require_pairs() would: beforehand, and without a tokenizer.
void require_rows(const TaskFile& file, const std::string& split);
void require_pairs(const Task& task, const TaskFile& file, const std::string& split,
                   std::int32_t max_length);

struct TaskOptions {
  BatchShape batch;
  RdmNoise noise;
  std::uint64_t seed = 0;
  std::string stream = "adapt";
  std::int32_t mask_id = 0;
};
// Length-bucketed micro-batches under batch.max_tokens; epochs reshuffle by a keyed permutation.
// tasks and ratios go together; one task needs no ratio. A ratio is a share of micro-batches.
std::unique_ptr<Source> make_task_source(std::vector<Task> tasks, const std::vector<double>& ratios,
                                         const TaskOptions& options);

// make() and the token groups that the backward pass needs.
MicroBatch make_whole(const Source& source, std::int64_t step, std::int32_t index);

// Computes make_whole() ahead on a helper thread, for an announced list of (step, index).
class Prefetcher {
 public:
  Prefetcher(const Source& source, std::size_t depth);
  ~Prefetcher();
  void announce(std::int64_t step, std::int32_t index);  // in the order they will be taken
  MicroBatch take();                                     // the oldest announced; rethrows its error

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace demist::data
