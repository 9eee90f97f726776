// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/error.hpp"
#include "core/philox.hpp"
#include "data/interleave.hpp"
#include "data/layout.hpp"
#include "data/noising.hpp"
#include "data/source.hpp"
#include "data/task_batches.hpp"

namespace demist::data {
namespace {

std::int64_t token_count(const TaskExample& example) {
  return static_cast<std::int64_t>(example.prompt.size() + example.response.size()) + 2;
}

// Shares in units of 2^-20: whole numbers that deal out micro-batches exactly.
std::vector<std::uint64_t> task_counts(const std::vector<double>& ratios, std::size_t tasks) {
  if (tasks == 1) return {1};
  if (ratios.size() != tasks)
    throw ConfigError("a mixture of " + std::to_string(tasks) + " tasks has " +
                      std::to_string(ratios.size()) + " ratios; give each task one");
  std::vector<std::uint64_t> counts;
  const double sum = std::accumulate(ratios.begin(), ratios.end(), 0.0);
  for (const double ratio : ratios) {
    if (!(ratio > 0 && std::isfinite(sum)))
      throw ConfigError("a task's ratio is " + std::to_string(ratio) +
                        "; it must be positive and finite");
    counts.push_back(
        static_cast<std::uint64_t>(std::max(1.0, std::round(std::ldexp(ratio / sum, 20)))));
  }
  return counts;
}

class TaskSource final : public Source {
 public:
  TaskSource(std::vector<Task> tasks, const std::vector<double>& ratios, const TaskOptions& options)
      : options_(options),
        noiser_(options.noise, options.mask_id, options.seed, options.stream),
        tasks_(std::move(tasks)),
        mixture_(task_counts(ratios, tasks_.size())) {
    if (options.batch.micro_batches < 1)
      throw ConfigError("micro_batches is " + std::to_string(options.batch.micro_batches) +
                        "; a step needs at least 1");
    for (std::size_t t = 0; t < tasks_.size(); ++t) {
      batches_.emplace_back(lengths_of(tasks_[t]), options.batch.max_tokens, noiser_.copies(),
                            stream_key(options.seed, options.stream + "/order", t));
      max_samples_ = std::max(max_samples_, batches_[t].max_samples());
      max_tokens_ = std::max(max_tokens_, batches_[t].max_batch_tokens());
    }
  }

  MicroBatch make(std::int64_t step, std::int32_t index) const override;
  std::int32_t micro_batches() const override { return options_.batch.micro_batches; }
  std::int64_t max_tokens() const override { return max_tokens_; }
  std::int64_t max_targets() const override { return max_tokens_; }
  std::int64_t max_rows() const override { return max_samples_ * noiser_.copies(); }

 private:
  std::vector<std::int64_t> lengths_of(const Task& task) const {
    if (task.examples.empty()) throw DataError("a task has no examples; check its file and split");
    std::vector<std::int64_t> lengths;
    for (const TaskExample& example : task.examples) {
      lengths.push_back(token_count(example));
      if (lengths.back() > options_.batch.sequence_length)
        throw DataError("a task has a pair of " + std::to_string(lengths.back()) +
                        " tokens, above sequence_length " +
                        std::to_string(options_.batch.sequence_length) +
                        "; read it with that maximal length");
    }
    return lengths;
  }
  // Micro-batch number of a (step, index) over the stage.
  std::uint64_t number(std::int64_t step, std::int32_t index) const {
    return static_cast<std::uint64_t>(step * micro_batches() + index);
  }
  std::uint64_t samples(std::int64_t step, std::int32_t index) const {
    const auto [task, item] = mixture_(number(step, index));
    return static_cast<std::uint64_t>(batches_[task].samples(item));
  }
  StepShare share(std::int64_t step, std::int32_t index) const;
  Response fill_sample(MicroBatch& batch, std::int64_t sample, const TaskExample& example) const;

  TaskOptions options_;
  RdmNoiser noiser_;
  std::vector<Task> tasks_;
  Interleave mixture_;
  std::vector<TaskBatches> batches_;  // by task
  std::int64_t max_samples_ = 0, max_tokens_ = 0;
};

MicroBatch TaskSource::make(std::int64_t step, std::int32_t index) const {
  ensure(step >= 0 && index >= 0 && index < micro_batches(), "TaskSource: no such micro-batch");
  const auto [task, item] = mixture_(number(step, index));
  const auto members = batches_[task].examples(item);
  const std::int64_t copies = noiser_.copies();
  MicroBatch batch = blank_micro_batch(
      step, index, static_cast<std::int64_t>(members.size()) * copies, batches_[task].cols(item));
  std::vector<Response> responses;
  responses.reserve(members.size());
  for (const std::uint32_t member : members)
    responses.push_back(fill_sample(batch, static_cast<std::int64_t>(responses.size()),
                                    tasks_[task].examples[member]));
  // Room for the largest micro-batch keeps names unique although batches differ in rows.
  std::iota(batch.sample.begin(), batch.sample.end(),
            number(step, index) * static_cast<std::uint64_t>(max_samples_ * copies));
  noiser_.corrupt(batch, responses, share(step, index));
  return batch;
}

// Where this micro-batch's samples stand among all of the step's: they share its time strata.
StepShare TaskSource::share(std::int64_t step, std::int32_t index) const {
  StepShare share{0, 0};
  for (std::int32_t i = 0; i < micro_batches(); ++i) {
    if (i == index) share.first = share.total;
    share.total += samples(step, i);
  }
  return share;
}

// <s> prompt response </s> (method, section 3.4). The response with its </s> may be noised.
Response TaskSource::fill_sample(MicroBatch& batch, std::int64_t sample,
                                 const TaskExample& example) const {
  const std::int64_t row = sample * noiser_.copies(), length = token_count(example);
  const auto ids = row_ids(batch, row);
  ids[0] = SpecialIds::bos;
  auto end = std::copy(example.prompt.begin(), example.prompt.end(), ids.begin() + 1);
  end = std::copy(example.response.begin(), example.response.end(), end);
  *end = SpecialIds::eos;
  lay_out_sequence(batch, row, length);
  if (noiser_.copies() == 2) copy_row(batch, row, row + 1);
  batch.real_tokens += length * noiser_.copies();
  return {static_cast<std::int32_t>(example.prompt.size()) + 1, static_cast<std::int32_t>(length)};
}

}  // namespace

std::unique_ptr<Source> make_task_source(std::vector<Task> tasks, const std::vector<double>& ratios,
                                         const TaskOptions& options) {
  if (tasks.empty()) throw ConfigError("the stage has no task; name at least one task file");
  return std::make_unique<TaskSource>(std::move(tasks), ratios, options);
}

}  // namespace demist::data
