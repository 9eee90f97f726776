// The check that a stage makes before it relies on an attention engine: what it lets pass, and what
// it finds.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/attention_check.hpp"

#include <gtest/gtest.h>

#include <string>

#include "core/philox.hpp"
#include "kernels/cuda/cuda_backend.hpp"
#include "tests/support/faulty_attention.hpp"

namespace demist::cuda::test {
namespace {

AttentionShape shape_of(DType dtype, std::int64_t head_dim, float dropout) {
  AttentionShape shape;
  shape.rows = 2;
  shape.cols = 128;
  shape.heads = 1;
  shape.first_head = 1;
  shape.head_dim = head_dim;
  shape.lse_ld = 2 * 128 + 16;  // rows of lse have a gap
  shape.dtype = dtype;
  shape.dropout = {dropout, stream_key(7, "attention check", 0)};
  return shape;
}

struct Case {
  const char* name;
  DType dtype;
  std::int64_t head_dim;
  float dropout;
};
class SoundAttention : public testing::TestWithParam<Case> {};
// With dropout both paths must drop the same elements: sample names and heads are those of a step.
TEST_P(SoundAttention, Passes) {
  CudaBackend backend;
  const Case& c = GetParam();
  for (const AttentionPath path : {AttentionPath::own, AttentionPath::unfused})
    EXPECT_EQ(backend.attention_chooser()->check(path, shape_of(c.dtype, c.head_dim, c.dropout)),
              "")
        << name_of(path);
}
INSTANTIATE_TEST_SUITE_P(Cuda, SoundAttention,
                         testing::Values(Case{"bf16", DType::bf16, 64, 0.0f},
                                         Case{"dropout", DType::bf16, 64, 0.1f},
                                         Case{"wide", DType::bf16, 128, 0.0f},
                                         Case{"odd_heads", DType::bf16, 40, 0.0f},
                                         Case{"fp32", DType::f32, 16, 0.1f}),
                         [](const auto& c) { return c.param.name; });

TEST(AttentionCheck, FindsEveryFault) {
  const char* const expected[] = {"dV of sequence 0, token 0 differs",
                                  "out of sequence 0, token 3 differs",
                                  "dQ of sequence 0, token 7 is not finite, or was not written",
                                  "dK of sequence 1, token 127 is not finite, or was not written",
                                  "lse of sequence 1, token 127, head 0 is not finite",
                                  "other bits",
                                  "does not support this shape",
                                  "no engine for this graph"};
  CudaBackend backend;
  AttentionEngines& engines = *backend.attention_chooser();
  AttentionEngine& own = engines.current();
  const AttentionShape shape = shape_of(DType::bf16, 64, 0.0f);
  const auto check_with = [&](AttentionFault fault) {
    engines.pretend_cudnn(std::make_unique<FaultyAttention>(own, fault), 91900);
    return engines.check(AttentionPath::cudnn, shape);
  };
  EXPECT_EQ(check_with(AttentionFault::none), "");
  for (std::size_t i = 0; i < std::size(kAttentionFaults); ++i) {
    const std::string found = check_with(kAttentionFaults[i]);
    EXPECT_NE(found.find(expected[i]), std::string::npos) << expected[i] << ": " << found;
  }
}

#ifdef DEMIST_EMULATED
TEST(AttentionCheck, SaysThatThereIsNoCudnn) {
  CudaBackend backend;
  AttentionEngines& engines = *backend.attention_chooser();
  EXPECT_EQ(engines.cudnn_version(), 0u);
  EXPECT_NE(engines.check(AttentionPath::cudnn, shape_of(DType::bf16, 64, 0.0f))
                .find("-DDEMIST_CUDNN_FRONTEND"),
            std::string::npos);
  EXPECT_THROW(engines.use(AttentionPath::cudnn), EnvironmentError);
}
#endif

// A real device takes memory in blocks of 2 MiB, and for kernels when they are first called: there
// a leak of one tensor a check shows after many of them.
TEST(AttentionCheck, GivesItsMemoryBack) {
#ifdef DEMIST_EMULATED
  constexpr int kChecks = 1;
  constexpr std::size_t kRounding = 0;
#else
  constexpr int kChecks = 300;
  constexpr std::size_t kRounding = std::size_t{4} << 20;
#endif
  CudaBackend backend;
  const AttentionShape shape = shape_of(DType::bf16, 64, 0.0f);
  const auto check = [&] {
    EXPECT_EQ(backend.attention_chooser()->check(AttentionPath::own, shape), "");
    backend.stream().wait();
  };
  if (kRounding > 0) check();
  const std::size_t before = backend.memory().available();
  for (int i = 0; i < kChecks; ++i) check();
  EXPECT_GE(backend.memory().available() + kRounding, before);
}

}  // namespace
}  // namespace demist::cuda::test
