// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "worker/model/model.hpp"
#include "worker/optimizer/sharded_adamw.hpp"
#include "worker/parallel/communicator.hpp"
#include "worker/trainer.hpp"

namespace demist {
namespace {

ParallelGroups alone() {
  ParallelGroups groups;
  groups.tensor = make_local_communicator();
  groups.data = make_local_communicator();
  groups.world = make_local_communicator();
  return groups;
}

}  // namespace

// Holds working weights only: one tensor at a time is read as fp32 and rounded.
struct InferenceModel::Impl {
  Impl(const checkpoint::Checkpoint& from, DType compute_type, std::unique_ptr<Backend> device)
      : config(model_config_from_json(from.meta().model_json)),
        compute(compute_type),
        backend(std::move(device)),
        groups(alone()),
        table(config, 1, 0),
        matrices(static_cast<std::size_t>(table.matrices_end()) * size_of(compute),
                 backend->memory()),
        vectors(static_cast<std::size_t>(table.size() - table.matrices_end()), backend->memory()),
        weights(make_views(config, table, matrices.data(), compute, vectors.data())) {
    for (const Parameter& p : table.parameters()) load(from, p);
  }

  void load(const checkpoint::Checkpoint& from, const Parameter& p) {
    const auto tensor = from.find(p.name);
    if (!tensor) throw CheckpointError(from.directory().string() + " has no tensor " + p.name);
    Buffer<float> values(static_cast<std::size_t>(p.local_size()));
    from.read({*tensor, checkpoint::Kind::parameter, 0, values.span()});
    if (!p.matrix) {
      backend->upload(vectors.data() + (p.offset - table.matrices_end()), values.data(),
                      values.bytes());
      return;
    }
    Buffer<float> staged;
    if (!backend->on_host()) {
      staged = Buffer<float>(values.size(), backend->memory());
      backend->upload(staged.data(), values.data(), values.bytes());
    }
    const Buffer<float>& source = backend->on_host() ? values : staged;
    auto* at = matrices.data() + p.offset * static_cast<std::int64_t>(size_of(compute));
    backend->convert({at, compute, 1, p.local_size(), p.local_size()}, vector_view(source.span()));
  }

  // Activations grow to the largest batch seen.
  Model& model_for(std::int64_t tokens, std::int64_t wanted) {
    if (!model || tokens > limits.tokens || wanted > limits.targets) {
      limits.tokens = std::max(limits.tokens, tokens);
      limits.targets = std::max(limits.targets, wanted);
      model = std::make_unique<Model>(config, table, *backend, *groups.tensor, compute, limits);
    }
    return *model;
  }

  const ModelConfig config;
  const DType compute;
  std::unique_ptr<Backend> backend;
  ParallelGroups groups;
  ParameterTable table;
  Buffer<std::byte> matrices;
  Buffer<float> vectors;
  ModelViews weights;
  Model::Limits limits{0, 0, false};
  std::unique_ptr<Model> model;
};

InferenceModel::InferenceModel(const checkpoint::Checkpoint& checkpoint, DType compute,
                               std::unique_ptr<Backend> backend)
    : impl_(std::make_unique<Impl>(checkpoint, compute, std::move(backend))) {}
InferenceModel::~InferenceModel() = default;

const ModelConfig& InferenceModel::config() const { return impl_->config; }

void InferenceModel::logits(std::int64_t rows, std::int64_t cols, std::span<const std::int32_t> ids,
                            std::span<const std::int32_t> length,
                            std::span<const std::int32_t> wanted, std::span<float> logits) {
  const auto tokens = static_cast<std::size_t>(rows * cols);
  ensure(ids.size() == tokens && length.size() == static_cast<std::size_t>(rows) &&
             logits.size() == wanted.size() * static_cast<std::size_t>(impl_->config.vocab),
         "InferenceModel::logits: shapes do not match");
  std::vector<std::int32_t> positions(tokens), begin(tokens, 0), end(tokens);
  for (std::size_t i = 0; i < tokens; ++i) {
    const auto row = i / static_cast<std::size_t>(cols);
    const auto col = static_cast<std::int32_t>(i % static_cast<std::size_t>(cols));
    positions[i] = col < length[row] ? col + 2 : 1;  // padding_idx + 1 + column; pads: padding_idx
    end[i] = length[row];
  }
  const std::vector<std::uint64_t> sample(static_cast<std::size_t>(rows), 0);
  const EncoderInput input{{rows, cols, sample}, {begin, end}, ids, positions, {}, {}};
  Model& model = impl_->model_for(rows * cols, static_cast<std::int64_t>(wanted.size()));
  model.logits(impl_->weights, input, wanted, logits);
}

}  // namespace demist
