// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/attention_cudnn.hpp"

#include <cudnn.h>
#include <cudnn_frontend.h>

#include <array>
#include <cmath>
#include <map>
#include <string>

#include "core/error.hpp"
#include "kernels/cuda/work_sizes.hpp"

namespace demist::cuda {
namespace {

namespace fe = cudnn_frontend;
using fe::graph::Tensor_attributes;

void check_cudnn(cudnnStatus_t status, const char* what) {
  if (status != CUDNN_STATUS_SUCCESS)
    throw EnvironmentError(std::string("cuDNN: ") + what + ": " + cudnnGetErrorString(status));
}
void check_cudnn(const fe::error_t& status, const char* what) {
  if (status.is_bad())
    throw EnvironmentError(std::string("cuDNN: ") + what + ": " + status.err_msg);
}

// Who is who in a graph.
enum Uid : std::int64_t { kQ = 1, kK, kV, kOut, kStats, kDout, kDq, kDk, kDv };
using Pointers = std::unordered_map<std::int64_t, void*>;

// All that a graph depends on; the leading dimensions are those of BasicView.
struct GraphKey {
  std::int64_t rows, cols, heads, head_dim;
  std::int64_t qkv_ld, out_ld, lse_ld, dout_ld = 0, dqkv_ld = 0;  // the last two: backward
  auto operator<=>(const GraphKey&) const = default;
};

// A graph that is being built, in our layouts.
class Builder {
 public:
  explicit Builder(const GraphKey& key) : key_(key) {
    graph_->set_io_data_type(fe::DataType_t::BFLOAT16)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
  }
  std::shared_ptr<fe::graph::Graph> forward() {
    auto options = fe::graph::SDPA_attributes();
    options.set_name("attention").set_generate_stats(true).set_attn_scale(scale());
    auto [out, stats] = graph_->sdpa(heads(kQ, key_.qkv_ld), heads(kK, key_.qkv_ld),
                                     heads(kV, key_.qkv_ld), std::move(options));
    give_heads(*out, kOut, key_.out_ld);
    give_stats(stats->set_output(true), kStats);
    return graph_;
  }
  std::shared_ptr<fe::graph::Graph> backward() {
    auto options = fe::graph::SDPA_backward_attributes();
    options.set_name("attention gradient")
        .set_attn_scale(scale())
        .set_deterministic_algorithm(true);
    Tensor_attributes stats;
    give_stats(stats, kStats);
    auto [dq, dk, dv] = graph_->sdpa_backward(heads(kQ, key_.qkv_ld), heads(kK, key_.qkv_ld),
                                              heads(kV, key_.qkv_ld), heads(kOut, key_.out_ld),
                                              heads(kDout, key_.dout_ld), graph_->tensor(stats),
                                              std::move(options));
    give_heads(*dq, kDq, key_.dqkv_ld);
    give_heads(*dk, kDk, key_.dqkv_ld);
    give_heads(*dv, kDv, key_.dqkv_ld);
    return graph_;
  }

 private:
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(key_.head_dim)); }
  std::vector<std::int64_t> dim() const {
    return {key_.rows, key_.heads, key_.cols, key_.head_dim};
  }
  std::vector<std::int64_t> strides(std::int64_t ld) const {
    return {key_.cols * ld, key_.head_dim, ld, 1};
  }
  std::shared_ptr<Tensor_attributes> heads(Uid uid, std::int64_t ld) {
    return graph_->tensor(Tensor_attributes().set_uid(uid).set_dim(dim()).set_stride(strides(ld)));
  }
  void give_heads(Tensor_attributes& tensor, Uid uid, std::int64_t ld) const {
    tensor.set_output(true).set_uid(uid).set_dim(dim()).set_stride(strides(ld));
  }
  // lse [heads, tokens]
  void give_stats(Tensor_attributes& tensor, Uid uid) const {
    tensor.set_uid(uid)
        .set_dim({key_.rows, key_.heads, key_.cols, 1})
        .set_stride({key_.cols, key_.lse_ld, 1, 1})
        .set_data_type(fe::DataType_t::FLOAT);
  }

  const GraphKey& key_;
  const std::shared_ptr<fe::graph::Graph> graph_ = std::make_shared<fe::graph::Graph>();
};

// q, k and v, or their gradients, in one tensor: its part `which`.
void* part_of(const void* qkv, const Attention& op, int which) {
  auto* const first = static_cast<bf16*>(const_cast<void*>(qkv));  // cuDNN knows no const
  return first + which * op.heads * op.head_dim;
}

class CudnnAttention final : public AttentionEngine {
 public:
  CudnnAttention(const Stream& stream, Memory& memory) : stream_(stream), memory_(memory) {
    int device = 0;
    cudaDeviceProp properties{};
    check(cudaGetDevice(&device), "current device");
    check(cudaGetDeviceProperties(&properties, device), "device properties");
    if (properties.major < 9)
      throw EnvironmentError(
          std::string("cuDNN's backward pass has the same bits every time from Hopper on, and this "
                      "is a ") +
          properties.name + "; set parallel.attention: OWN");
    check_cudnn(cudnnCreate(&handle_), "start");
    check_cudnn(cudnnSetStream(handle_, stream.get()), "choose a stream");
  }
  ~CudnnAttention() override { cudnnDestroy(handle_); }
  CudnnAttention(const CudnnAttention&) = delete;
  CudnnAttention& operator=(const CudnnAttention&) = delete;

  bool supports(const ConstTensorView& qkv, const Attention& op) const override {
    return qkv.dtype == DType::bf16 && op.head_dim % 8 == 0 && op.head_dim <= 128 &&
           op.grid.cols % 128 == 0 && !op.dropout.active() && qkv.ld % 8 == 0 &&
           reinterpret_cast<std::uintptr_t>(qkv.data) % 16 == 0;
  }
  std::size_t forward_workspace(const ConstTensorView&, const Attention&) const override {
    return 0;
  }
  std::size_t backward_workspace(const ConstTensorView&, const Attention&) const override {
    return 0;
  }

  void forward(const Launch&, const AttentionForward& t, const Attention& op) override {
    ensure(supports(t.qkv, op), "cuDNN attention: ask supports() first");
    if (op.grid.tokens() == 0) return;
    const GraphKey key = key_of(op, t.qkv, t.out.ld, t.lse.ld);
    Pointers pointers = operands(t.qkv, op);
    pointers[kOut] = t.out.data;
    pointers[kStats] = t.lse.data;
    run(
        forward_, key, [&] { return Builder(key).forward(); }, pointers);
  }
  void backward(const Launch&, const AttentionBackward& t, const Attention& op) override {
    ensure(supports(t.qkv, op), "cuDNN attention: ask supports() first");
    if (op.grid.tokens() == 0) return;
    GraphKey key = key_of(op, t.qkv, t.out.ld, t.lse.ld);
    key.dout_ld = t.dout.ld;
    key.dqkv_ld = t.dqkv.ld;
    Pointers pointers = operands(t.qkv, op);
    pointers[kOut] = const_cast<void*>(t.out.data);
    pointers[kStats] = const_cast<void*>(t.lse.data);
    pointers[kDout] = const_cast<void*>(t.dout.data);
    pointers[kDq] = part_of(t.dqkv.data, op, 0);
    pointers[kDk] = part_of(t.dqkv.data, op, 1);
    pointers[kDv] = part_of(t.dqkv.data, op, 2);
    run(
        backward_, key, [&] { return Builder(key).backward(); }, pointers);
  }

 private:
  using Graphs = std::map<GraphKey, std::shared_ptr<fe::graph::Graph>>;

  static GraphKey key_of(const Attention& op, const ConstTensorView& qkv, std::int64_t out_ld,
                         std::int64_t lse_ld) {
    return {op.grid.rows, op.grid.cols, op.heads, op.head_dim, qkv.ld, out_ld, lse_ld};
  }
  static Pointers operands(const ConstTensorView& qkv, const Attention& op) {
    return {{kQ, part_of(qkv.data, op, 0)},
            {kK, part_of(qkv.data, op, 1)},
            {kV, part_of(qkv.data, op, 2)}};
  }

  template <class Build>
  void run(Graphs& graphs, const GraphKey& key, Build build, Pointers& pointers) {
    auto& graph = graphs[key];
    if (!graph) graph = finish(build());
    check_cudnn(graph->execute(handle_, pointers, workspace_.data()), "attention");
  }
  // Takes a second or so.
  std::shared_ptr<fe::graph::Graph> finish(std::shared_ptr<fe::graph::Graph> graph) {
    check_cudnn(graph->build(handle_, {fe::HeurMode_t::A}), "no way to compute this attention");
    std::int64_t bytes = 0;
    check_cudnn(graph->get_workspace_size(bytes), "size of its workspace");
    if (static_cast<std::size_t>(bytes) > workspace_.size()) {
      stream_.wait();
      workspace_ = {};
      workspace_ = Buffer<std::byte>(static_cast<std::size_t>(bytes), memory_);
    }
    // cuDNN before 9.18 read what it had not written (TransformerEngine 2186).
    if (workspace_.size() > 0)
      check(cudaMemsetAsync(workspace_.data(), 0, workspace_.size(), stream_.get()),
            "zero cuDNN's workspace");
    return graph;
  }

  const Stream& stream_;
  Memory& memory_;
  cudnnHandle_t handle_ = nullptr;
  Graphs forward_, backward_;
  Buffer<std::byte> workspace_;
};

}  // namespace

std::size_t cudnn_version() { return cudnnGetVersion(); }

std::unique_ptr<AttentionEngine> make_cudnn_attention(const Stream& stream, Memory& memory) {
  return std::make_unique<CudnnAttention>(stream, memory);
}

}  // namespace demist::cuda
