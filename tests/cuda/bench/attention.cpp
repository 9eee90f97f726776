// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "kernels/cuda/work_sizes.hpp"
#include "tests/cuda/bench/attention_operands.hpp"
#include "tests/cuda/bench/measurements.hpp"
#include "tests/cuda/bench/stopwatch.hpp"

namespace demist::bench {
namespace {

// What cuDNN's graphs keep for themselves is what the check leaves behind.
void measure_path(cuda::CudaBackend& backend, const NamedModel& model, AttentionPath path,
                  bool tiny) {
  // Without dropout: what cuDNN can compute.
  const AttentionShape shape = attention_shape(model, tiny);
  const int repetitions = tiny ? 1 : 10;
  AttentionChooser& chooser = *backend.attention_chooser();
  const std::size_t before = backend.memory().available();
  nlohmann::json line{{"kind", "attention"},        {"path", name_of(path)},
                      {"model", model.name},        {"rows", shape.rows},
                      {"cols", shape.cols},         {"heads", shape.heads},
                      {"head_dim", shape.head_dim}, {"problem", chooser.check(path, shape)}};
  backend.stream().wait();
  if (path == AttentionPath::cudnn) {
    StepShape step;
    step.tokens = shape.rows * shape.cols;
    step.sequences = shape.rows;
    step.longest = shape.cols;
    step.heads_local = shape.heads;
    step.attention = path;
    line["kept_bytes"] = before - std::min(before, backend.memory().available());
    line["planned_bytes"] = cuda::cudnn_attention_bytes(step);
  }
  if (line["problem"] == "") {
    chooser.use(path);
    AttentionOperands operands(backend, shape);
    const cuda::AttentionForward f = operands.forward();
    const cuda::AttentionBackward b = operands.backward();
    const Attention& op = operands.op();
    line["forward_seconds"] = median_seconds(
        backend.stream(), repetitions, [&] { backend.attention_forward(f.out, f.lse, f.qkv, op); });
    line["backward_seconds"] = median_seconds(backend.stream(), repetitions, [&] {
      backend.attention_backward(b.dqkv, b.dout, b.qkv, b.out, b.lse, op);
    });
  }
  print(line);
}

}  // namespace

void compare_attention(bool tiny) {
  for (const NamedModel& model : kModels) {
    if (tiny != (std::string(model.name) == "tiny")) continue;
    for (const AttentionPath path : kAttentionPaths) {
      cuda::CudaBackend backend;
      const std::size_t version = backend.attention_chooser()->cudnn_version();
      if (path != AttentionPath::cudnn || version > 0) measure_path(backend, model, path, tiny);
    }
  }
  cuda::CudaBackend backend;
  print({{"kind", "cudnn"}, {"version", backend.attention_chooser()->cudnn_version()}});
}

}  // namespace demist::bench
