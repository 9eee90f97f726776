// When cuDNN may compute attention, rule by rule.
// SPDX-License-Identifier: Apache-2.0
#include "worker/attention_rules.hpp"

#include <gtest/gtest.h>

namespace demist {
namespace {

constexpr CudnnCase kGood{91900, 512, 64, 0, DType::bf16};

template <class T>
CudnnCase with(T CudnnCase::*member, T value) {
  CudnnCase c = kGood;
  c.*member = value;
  return c;
}

TEST(AttentionRules, EachRuleHasItsReason) {
  struct Row {
    CudnnCase facts;
    const char* why;  // a part; empty: cuDNN may
  };
  const Row rows[] = {
      {kGood, ""},
      {with(&CudnnCase::version, std::size_t{0}), "no cuDNN attention"},
      {with(&CudnnCase::version, std::size_t{91001}), "cuDNN 9.10.1 reads workspace"},
      {with(&CudnnCase::version, std::size_t{91400}), "cuDNN 9.14.0"},
      {with(&CudnnCase::version, std::size_t{91799}), "other known faults"},
      {with(&CudnnCase::version, std::size_t{91800}), ""},
      {with(&CudnnCase::version, std::size_t{92600}), ""},
      {with(&CudnnCase::columns, std::int64_t{0}), "padding"},
      {with(&CudnnCase::columns, std::int64_t{64}), "rows of 64 tokens"},
      {with(&CudnnCase::columns, std::int64_t{576}), "no multiple of 128"},
      {with(&CudnnCase::columns, std::int64_t{128}), ""},
      {with(&CudnnCase::head_dim, std::int64_t{80}), ""},
      {with(&CudnnCase::head_dim, std::int64_t{128}), ""},
      {with(&CudnnCase::head_dim, std::int64_t{136}), "heads of 136"},
      {with(&CudnnCase::head_dim, std::int64_t{60}), "heads of 60"},
      {with(&CudnnCase::dropout, 0.1f), "attention_dropout is 0.1"},
      {with(&CudnnCase::compute, DType::f32), "no fp32"},
  };
  for (const Row& row : rows) {
    const Refusal refusal = cudnn_refusal(row.facts);
    EXPECT_EQ(!refusal, row.why[0] == '\0') << refusal.why;
    EXPECT_NE(refusal.why.find(row.why), std::string::npos) << row.why << ": " << refusal.why;
    EXPECT_EQ(refusal.remedy.empty(), !refusal) << refusal.why;
  }
  EXPECT_FALSE(cudnn_refusal(with(&CudnnCase::version, kAnyGoodCudnn)));
}

}  // namespace
}  // namespace demist
