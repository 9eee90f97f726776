// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <string>

#include "kernels/cuda/attention_fused.hpp"
#include "kernels/cuda/combine_terms.hpp"
#include "kernels/cuda/work_sizes.hpp"
#include "tests/cuda/bench/attention_operands.hpp"
#include "tests/cuda/bench/measurements.hpp"
#include "tests/cuda/bench/stopwatch.hpp"
#include "worker/parallel/nccl_communicator.hpp"
#include "worker/parallel/slices.hpp"

namespace demist::bench {
namespace {

// One backend for all kernels, and what the device's time of one call of them is printed with.
class KernelClock {
 public:
  explicit KernelClock(bool tiny) : repetitions_(tiny ? 1 : 20) {}

  template <class Kernel>
  void print_time(const std::string& name, const std::string& shape, double bytes, double flops,
                  Kernel kernel) {
    const double seconds = median_seconds(backend.stream(), repetitions_, kernel);
    print({{"kind", "operation"},
           {"name", name},
           {"shape", shape},
           {"calls", 1},
           {"seconds", seconds},
           {"bytes", bytes},
           {"flops", flops}});
  }

  cuda::CudaBackend backend;

 private:
  int repetitions_;
};

// Bytes and FLOPs are those of the kernels' comments: what they multiply, not what a result needs.
void measure_attention(KernelClock& clock, const NamedModel& model, bool tiny) {
  const AttentionShape s = attention_shape(model, tiny);
  AttentionOperands operands(clock.backend, s);
  Attention& op = operands.op();
  op.dropout = {0.1f, 7};
  Buffer<std::uint8_t> space(cuda::fused_attention_workspace(op), clock.backend.memory());
  const cuda::BackwardWorkspace workspace = cuda::backward_workspace(space.data(), op);
  const cuda::AttentionForward forward = operands.forward();
  const cuda::AttentionBackward backward = operands.backward();
  const auto tokens = static_cast<double>(s.rows * s.cols), heads = static_cast<double>(s.heads);
  const double elements = tokens * heads * static_cast<double>(s.head_dim);
  const double product = 2 * elements * static_cast<double>(s.cols);
  const auto decisions_and_rows = static_cast<double>(cuda::fused_attention_workspace(op));
  const std::string shape = std::to_string(s.rows) + "x" + std::to_string(s.cols) + ", " +
                            std::to_string(s.heads) + " heads of " + std::to_string(s.head_dim);
  cudaStream_t stream = clock.backend.stream().get();
  clock.print_time("fused attention forward", shape, 8 * elements + 4 * tokens * heads, 2 * product,
                   [&] { launch_attention_forward(forward, op, stream); });
  clock.print_time("fused attention dQ", shape, 12 * elements + decisions_and_rows, 3 * product,
                   [&] { launch_query_gradient(backward, op, workspace, stream); });
  clock.print_time("fused attention dK, dV", shape, 12 * elements + decisions_and_rows, 4 * product,
                   [&] { launch_key_gradient(backward, op, workspace, stream); });
}

// One pass of a tensor group's sum of activations, as the owner of a slice adds it.
void measure_terms(KernelClock& clock, const NamedModel& model, bool tiny) {
  const std::int64_t tokens = tiny ? 32 : model.hidden >= 4096 ? 8192 : 16384;
  for (const int ranks : {2, 4, 8}) {
    const auto piece =
        static_cast<std::int64_t>(device_piece_bytes(ranks, kDeviceStagingBytes) / sizeof(float));
    const std::int64_t count = std::min(tokens * model.hidden / ranks, piece);
    const Buffer<bf16> numbers =
        random_numbers(clock.backend, static_cast<std::size_t>(2 * count * ranks));
    const auto* const terms = reinterpret_cast<const float*>(numbers.data());
    Buffer<float> out(static_cast<std::size_t>(count), clock.backend.memory());
    const cuda::FloatTerms all{terms, terms + count, count, ranks - 1, 0};
    const std::string shape = std::to_string(ranks) + " ranks, " + std::to_string(count);
    const auto read = static_cast<double>(4 * ranks * count);
    cudaStream_t stream = clock.backend.stream().get();
    clock.print_time("sum_terms", "bf16, " + shape, read + static_cast<double>(2 * count), 0, [&] {
      sum_terms(stream, {out.data(), DType::bf16, 1, count, count}, all);
    });
    clock.print_time("max_terms", "fp32, " + shape, read + static_cast<double>(4 * count), 0,
                     [&] { max_terms(stream, vector_view(out.span()), all); });
  }
}

}  // namespace

void measure_kernels(bool tiny) {
  KernelClock clock(tiny);
  for (const NamedModel& model : kModels)
    if (tiny == (std::string(model.name) == "tiny")) measure_attention(clock, model, tiny);
  measure_terms(clock, model_named(tiny ? "tiny" : "xxl"), tiny);
}

}  // namespace demist::bench
