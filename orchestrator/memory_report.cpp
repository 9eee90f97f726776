// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/memory_report.hpp"

#include <array>
#include <cstdio>

#include "data/masking.hpp"
#include "worker/memory_plan.hpp"

namespace demist {
namespace {

// Of a GPU's name, in units of 10^9 bytes. An H100 of "80 GB" and an H200 of "141 GB" have 85.5 and
// 150.8: what CUDA, NCCL and cuBLASLt take for themselves.
constexpr std::array<std::int64_t, 2> kGpuGigabytes{80, 141};
constexpr std::int64_t kShortestTask = 8;  // tokens of a row, rounded up: data/task_batches.hpp

std::string grouped(std::int64_t value) {
  std::string text = std::to_string(value);
  for (auto at = static_cast<std::ptrdiff_t>(text.size()) - 3; at > 0; at -= 3)
    text.insert(static_cast<std::size_t>(at), 1, ',');
  return text;
}

std::string gigabytes(std::size_t bytes) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.2f", static_cast<double>(bytes) * 1e-9);
  return text.data();
}

// Most targets of a row of `length` tokens.
std::int64_t targets_of_row(const TrainingStage& stage, std::int64_t length, std::int64_t vocab) {
  const auto* mlm = std::get_if<data::MlmNoise>(&stage.noise);
  if (mlm == nullptr) return stage.on_tasks() ? length : length - 1;
  const auto vocab_size = static_cast<std::int32_t>(vocab);
  return data::MlmMasker(*mlm, vocab_size - 1, vocab_size).max_targets(length);
}

// What a GPU is to be planned for: with AUTO, cuDNN where it may be taken.
AttentionPath attention_of(const RunConfig& run, const MemoryRequest& request) {
  if (run.attention == AttentionWish::unfused) return AttentionPath::unfused;
  if (run.attention == AttentionWish::own) return AttentionPath::own;
  return cudnn_refusal({kAnyGoodCudnn, request.columns, request.model.head_dim(),
                        request.model.attention_dropout, request.compute})
             ? AttentionPath::own
             : AttentionPath::cudnn;
}

MemoryRequest request_of(const RunConfig& run, const TrainingStage& stage, std::int64_t vocab) {
  const auto* rdm = std::get_if<data::RdmNoise>(&stage.noise);
  const std::int64_t copies = rdm != nullptr && rdm->coupled ? 2 : 1;
  MemoryRequest request;
  request.model = run.model;
  request.model.vocab = vocab;
  request.model.hidden_dropout = stage.hidden_dropout;
  request.model.attention_dropout = stage.attention_dropout;
  request.compute = run.compute;
  request.reduction = run.reduction;
  request.recompute = run.recompute;
  request.layout.tensor_size = run.tensor_parallel;
  request.layout.data_size = run.ranks / run.tensor_parallel;
  request.micro_batches = stage.batch.micro_batches;
  const std::int64_t length = stage.on_tasks() ? kShortestTask : stage.batch.sequence_length;
  request.sequences = stage.batch.max_tokens / length / copies * copies;
  request.tokens = stage.on_tasks() ? stage.batch.max_tokens : request.sequences * length;
  request.targets =
      stage.on_tasks() ? request.tokens : request.sequences * targets_of_row(stage, length, vocab);
  request.columns = stage.on_tasks() || stage.document_mask ? 0 : stage.batch.sequence_length;
  request.attention = attention_of(run, request);
  return request;
}

std::string describe_stage(const std::string& name, MemoryRequest request) {
  request.on_device = false;
  const MemoryPlan host = plan_memory(request);
  request.on_device = true;
  const MemoryPlan device = plan_memory(request);
  std::string text = "Stage " + name + ", " + grouped(request.tokens) +
                     " tokens a micro-batch, recompute " + name_of(request.recompute) + ", TP " +
                     std::to_string(request.layout.tensor_size) + " x DP " +
                     std::to_string(request.layout.data_size) +
                     "; GB (10^9 bytes) of a rank:\n\n| | on a CPU | on a GPU |\n|---|---|---|\n";
  const auto row = [&](const char* part, std::size_t on_host, std::size_t on_device) {
    text += std::string("| ") + part + " | " + gigabytes(on_host) + " | " + gigabytes(on_device) +
            " |\n";
  };
  const auto parts = host.parts(), device_parts = device.parts();
  for (std::size_t i = 0; i < parts.size(); ++i)
    row(parts[i].name, parts[i].bytes, device_parts[i].bytes);
  row("total", host.total(), device.total());
  return text;
}

// A row: what does not grow with the micro-batch, and the largest micro-batch for each GPU and
// mode.
std::string describe_fit(MemoryRequest request, std::int64_t length, std::int64_t targets_each) {
  const ParallelLayout& layout = request.layout;
  request.tokens = request.sequences = request.targets = 0;
  std::string row = "| " + std::to_string(layout.tensor_size) + " | " +
                    std::to_string(layout.data_size) + " | " +
                    gigabytes(plan_memory(request).total()) + " |";
  for (const std::int64_t size : kGpuGigabytes)
    for (const Recompute mode : {Recompute::none, Recompute::gelu, Recompute::layer}) {
      request.recompute = mode;
      const std::int64_t tokens = most_tokens(request, length, targets_each,
                                              static_cast<std::size_t>(size) * 1'000'000'000);
      row.append(" ").append(tokens == 0 ? "-" : grouped(tokens)).append(" |");
    }
  return row + "\n";
}

std::string describe_fits(const std::string& name, MemoryRequest request,
                          const TrainingStage& stage) {
  const std::int64_t length = stage.batch.sequence_length;
  std::string text = "Largest micro-batch of stage " + name + " in tokens, sequences of " +
                     std::to_string(length) +
                     "; state: GB that do not grow with it:\n\n| TP | DP | state |";
  for (const std::int64_t size : kGpuGigabytes)
    for (const Recompute mode : {Recompute::none, Recompute::gelu, Recompute::layer})
      text.append(" ").append(std::to_string(size)).append(" GB, ").append(name_of(mode)) += " |";
  text += "\n|---|---|---|---|---|---|---|---|---|\n";
  request.on_device = true;
  const std::int64_t targets = targets_of_row(stage, length, request.model.vocab);
  for (const int tensor : {1, 2, 4, 8}) {
    if (request.model.heads % tensor != 0 || request.model.ffn % tensor != 0) continue;
    for (const int data : {1, 8, 64}) {
      request.layout = {.tensor_size = tensor, .data_size = data};
      text += describe_fit(request, length, targets);
    }
  }
  return text;
}

}  // namespace

std::string describe_memory(const RunConfig& run, std::int64_t vocab) {
  ModelConfig model = run.model;
  model.vocab = vocab;
  std::string text = run.name + ": " + grouped(ParameterTable(model, 1, 0).logical_size()) +
                     " parameters, vocabulary " + grouped(vocab) + "\n";
  std::string fits;
  for (const StageConfig& stage : run.stages) {
    const auto* work = std::get_if<TrainingStage>(&stage.work);
    if (work == nullptr) continue;
    const MemoryRequest request = request_of(run, *work, vocab);
    text.append("\n").append(describe_stage(stage.name, request));
    if (fits.empty() && !work->on_tasks())
      fits.append("\n").append(describe_fits(stage.name, request, *work));
  }
  return text + fits;
}

}  // namespace demist
