// SPDX-License-Identifier: Apache-2.0
#include "worker/memory_plan.hpp"

#include <algorithm>
#include <array>

#include "core/error.hpp"
#include "core/file.hpp"
#include "kernels/cuda/work_sizes.hpp"
#include "worker/checkpoint/checkpoint.hpp"
#include "worker/model/activations.hpp"
#include "worker/model/device_batch.hpp"
#include "worker/model/logits_chunk.hpp"
#include "worker/model/model.hpp"
#include "worker/parallel/slices.hpp"

namespace demist {
namespace {

std::size_t size(std::int64_t count) { return static_cast<std::size_t>(count); }

// A request with what follows from it at once.
class Planner {
 public:
  explicit Planner(const MemoryRequest& request)
      : r_(request),
        table_(request.model, request.layout.tensor_size, request.layout.tensor_rank,
               ParameterTable::vocabulary_unit(request.on_device)),
        slices_(table_.shard(request.layout.data_size, request.layout.data_rank)),
        shape_(step_shape(request, table_)),
        element_(size_of(request.compute)) {}

  MemoryPlan plan() const {
    MemoryPlan plan;
    plan.weights = size(table_.matrices_end()) * element_ +
                   size(table_.size() - table_.matrices_end()) * sizeof(float);
    plan.gradients = size(table_.size() + shard()) * sizeof(float);
    plan.sums = sums();
    plan.optimizer = 3 * size(shard()) * sizeof(float) + norm_tiles() * sizeof(double);
    plan.activations = Activations::bytes(activations());
    plan.head = head();
    plan.exchange = exchange(r_.layout.tensor_size, tensor_slice(), sizeof(float)) +
                    exchange(r_.layout.data_size, data_slice(), sum_element());
    plan.work = work();
    if (!r_.on_device) {
      plan.checkpoint = std::size(checkpoint::kKinds) * size(shard()) * sizeof(float);
      return plan;
    }
    plan.work += cuda::step_workspace_bytes(shape_) + cuda::cudnn_attention_bytes(shape_) +
                 cuda::step_bias_bytes(shape_) + cuda::kGemmWorkspaceBytes +
                 DeviceBatch::most_bytes(r_.tokens, r_.targets);
    plan.from_start = cuda::kGemmWorkspaceBytes + plan.exchange;
    return plan;
  }

 private:
  std::int64_t shard() const {
    const ShardSlice& last = slices_.back();
    return last.at + last.end - last.begin;
  }
  // Calls body(elements) for each tensor's part of each slice of the shard.
  template <class Body>
  void for_parts(Body&& body) const {
    for (const ShardSlice& slice : slices_)
      for (const Parameter& p : table_.parameters()) {
        const std::int64_t begin = std::max(p.offset, slice.begin);
        const std::int64_t end = std::min(p.offset + p.local_size(), slice.end);
        if (begin < end) body(end - begin);
      }
  }
  std::size_t sum_element() const {
    return r_.reduction == Reduction::exact ? sizeof(std::int64_t) : sizeof(float);
  }

  // ExactReducer, FastReducer
  std::size_t sums() const {
    const bool shared = r_.layout.data_size > 1;
    if (r_.reduction == Reduction::fast) return size(table_.size() + 1) * sizeof(float);
    const std::size_t tables = piece_tables();
    if (!shared && r_.micro_batches == 1) return tables;
    return tables + size(table_.size() + (shared ? shard() : 0)) * sizeof(std::int64_t);
  }
  // A scale a tensor; pieces of the arena, with their largest value, and of the shard.
  std::size_t piece_tables() const {
    const auto pieces = [](std::int64_t count) {
      return size(cuda::ceil_div(count, ScaledPiece::kLongest));
    };
    std::size_t arena = 0, mine = 0;
    for (const Parameter& p : table_.parameters()) arena += pieces(p.local_size());
    for_parts([&](std::int64_t count) { mine += pieces(count); });
    return table_.parameters().size() * sizeof(double) +
           arena * (sizeof(ScaledPiece) + sizeof(float)) + mine * sizeof(ScaledPiece);
  }

  // ShardedAdamW: a double for each tile of this shard's tensors, and for parts at either end.
  std::size_t norm_tiles() const {
    std::int64_t parts = 0;
    for_parts([&](std::int64_t) { ++parts; });
    return size(cuda::ceil_div(shard(), ParameterTable::kTile) + 2 * parts);
  }

  ActivationShape activations() const {
    return {r_.tokens,        r_.model.layers,    r_.model.hidden, shape_.qkv_cols / 3,
            shape_.ffn_local, shape_.heads_local, r_.compute,      true,
            r_.recompute};
  }

  // Model: five rows of d a target, their norm's statistics, losses in double; a chunk's logits,
  // the parts' statistics and log-sum-exps.
  std::size_t head() const {
    const std::size_t losses = Model::kLosses * (r_.on_device ? 1 : 2) * sizeof(double);
    const std::size_t row = 5 * size(r_.model.hidden) * element_ + 2 * sizeof(float) + losses;
    const std::size_t logits = size(logits_columns(shape_.vocab_local)) +
                               size(r_.layout.tensor_size) * size(CrossEntropyColumn::count) + 1;
    return size(r_.targets) * row + size(shape_.chunk_rows) * logits * sizeof(float);
  }

  // Model: three rows of d a token and a wide one; under tensor parallelism one of fp32.
  std::size_t work() const {
    const std::size_t d = size(r_.model.hidden),
                      wide = size(std::max(shape_.qkv_cols, shape_.ffn_local));
    const std::size_t partial = r_.layout.tensor_size > 1 ? d * sizeof(float) : 0;
    return size(r_.tokens) * ((3 * d + wide) * element_ + partial);
  }

  // The longest part of a sum that one rank of a group adds up: of activations, or of a bucket.
  std::int64_t tensor_slice() const {
    return cuda::ceil_div(r_.tokens * r_.model.hidden, r_.layout.tensor_size);
  }
  std::int64_t data_slice() const {
    std::int64_t longest = 0;
    for (const Bucket& bucket : table_.buckets()) {
      const auto starts = ParameterTable::shard_starts(bucket, r_.layout.data_size);
      for (std::size_t i = 1; i < starts.size(); ++i)
        longest = std::max(longest, starts[i] - starts[i - 1]);
    }
    return longest;
  }
  // NcclCommunicator; MpiCommunicator, which grows to this with the first such sum.
  std::size_t exchange(int ranks, std::int64_t slice, std::size_t element) const {
    if (ranks == 1) return 0;
    constexpr std::size_t limit = MessageLimits{}.staging_bytes;
    const std::size_t others = size(ranks - 1);
    if (r_.on_device) return device_piece_bytes(ranks, kDeviceStagingBytes) * others;
    return std::min(limit / element / size(ranks), size(slice)) * others * element;
  }

  const MemoryRequest& r_;
  const ParameterTable table_;
  const std::vector<ShardSlice> slices_;
  const StepShape shape_;
  const std::size_t element_;
};

// What would make the plan fit.
std::string remedy(const MemoryRequest& request, std::size_t available) {
  MemoryRequest other = request;
  other.attention = AttentionPath::own;
  if (request.attention != other.attention && plan_memory(other).total() <= available)
    return "set parallel.attention: OWN";
  other.attention = request.attention;
  for (const Recompute mode : {Recompute::gelu, Recompute::layer}) {
    other.recompute = std::max(request.recompute, mode);
    if (plan_memory(other).total() <= available)
      return std::string("set parallel.recompute: ") + name_of(other.recompute);
  }
  const std::int64_t rows = std::max<std::int64_t>(1, request.sequences);
  const std::int64_t tokens = most_tokens(other, std::max<std::int64_t>(1, request.tokens / rows),
                                          cuda::ceil_div(request.targets, rows), available);
  if (tokens >= request.tokens / 64)
    return "set parallel.recompute: LAYER and batch.max_tokens to at most " +
           std::to_string(tokens);
  return "raise parallel.tensor, or use more ranks";
}

}  // namespace

const char* name_of(Recompute recompute) {
  static constexpr std::array names{"NONE", "GELU", "LAYER"};
  return names[static_cast<std::size_t>(recompute)];
}

std::size_t MemoryPlan::total() const {
  return weights + gradients + sums + optimizer + activations + head + work + exchange + checkpoint;
}

std::vector<MemoryPlan::Part> MemoryPlan::parts() const {
  return {{"weights", weights},     {"gradients", gradients},     {"sums", sums},
          {"optimizer", optimizer}, {"activations", activations}, {"head", head},
          {"work space", work},     {"exchange", exchange},       {"checkpoint", checkpoint}};
}

StepShape step_shape(const MemoryRequest& r, const ParameterTable& table) {
  const std::int64_t parts = r.layout.tensor_size;
  StepShape shape;
  shape.tokens = r.tokens;
  shape.sequences = r.sequences;
  shape.longest = r.columns > 0 ? r.columns : r.model.positions - 2;
  shape.targets = r.targets;
  shape.vocab_local = table.find("embeddings.word.weight").local_rows;
  shape.chunk_rows = logits_chunk_rows(r.targets, shape.vocab_local, !r.on_device);
  shape.hidden = r.model.hidden;
  shape.ffn_local = r.model.ffn / parts;
  shape.qkv_cols = 3 * r.model.hidden / parts;
  shape.heads_local = r.model.heads / parts;
  shape.head_dim = r.model.head_dim();
  shape.compute = r.compute;
  shape.attention_dropout = r.model.attention_dropout > 0;
  shape.attention = r.attention;
  return shape;
}

MemoryPlan plan_memory(const MemoryRequest& request) { return Planner(request).plan(); }

std::int64_t most_tokens(MemoryRequest request, std::int64_t length, std::int64_t targets_each,
                         std::size_t bytes) {
  const auto fits = [&](std::int64_t sequences) {
    request.sequences = sequences;
    request.tokens = sequences * length;
    request.targets = sequences * targets_each;
    return plan_memory(request).total() <= bytes;
  };
  if (!fits(1)) return 0;
  std::int64_t good = 1, bad = 2;
  while (fits(bad)) {
    good = bad;
    bad *= 2;
  }
  while (bad - good > 1) {
    const std::int64_t middle = good + (bad - good) / 2;
    (fits(middle) ? good : bad) = middle;
  }
  return good * length;
}

// Not planned: what NCCL takes when ranks first meet, and cuBLASLt for the kernels that it loads.
// An estimate; no GPU has confirmed it.
constexpr std::size_t kDeviceReserve = std::size_t{512} << 20;

MemoryPlan require_memory(const mpi::Comm& world, const MemoryRequest& request, Memory& memory) {
  const MemoryPlan plan = plan_memory(request);
  // A device belongs to one rank; the ranks of a machine share its memory.
  const mpi::Comm sharing = request.on_device ? mpi::Comm() : world.split_node();
  const std::size_t wanted = plan.total() - plan.from_start;
  const auto together =
      static_cast<std::size_t>(sharing.all_reduce_sum(static_cast<std::int64_t>(wanted)));
  // No rank allocates before all have looked.
  mpi::together(world, "plan memory", [&] {
    const std::size_t reserve = request.on_device ? kDeviceReserve : 0;
    const std::size_t available = memory.available() - std::min(memory.available(), reserve);
    if (together <= available) return;
    const std::size_t share = available / size(sharing.size()) + plan.from_start;
    throw EnvironmentError(
        (sharing.size() == 1 ? "this rank needs "
                             : "the " + std::to_string(sharing.size()) + " ranks here need ") +
        format_bytes(together) + (request.on_device ? " of GPU memory, " : " of memory, ") +
        format_bytes(together - available) + " more than is free" +
        (reserve > 0 ? " beside " + format_bytes(reserve) + " for NCCL and cuBLASLt" : "") +
        " (a rank: " + to_string(plan) + "); " + remedy(request, share));
  });
  return plan;
}

std::string to_string(const MemoryPlan& plan) {
  std::string text = format_bytes(plan.total()) + ":";
  const char* separator = " ";
  for (const MemoryPlan::Part& part : plan.parts()) {
    if (part.bytes == 0) continue;
    text += separator + std::string(part.name) + " " + format_bytes(part.bytes);
    separator = ", ";
  }
  return text;
}

}  // namespace demist
