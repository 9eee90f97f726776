// Whether an attention engine computes what the reference does: asked before a stage relies on it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "kernels/attention_chooser.hpp"
#include "kernels/backend.hpp"
#include "kernels/cuda/attention_engine.hpp"
#include "kernels/cuda/runtime.hpp"

namespace demist::cuda {

// How far an engine may be from the reference. `row`: a token's heads in out, dQ, dK or dV, the
// norm of the difference by the larger of the row's norm and the sequence's root mean square of
// them. Both round P, dS and the results to the storage type, where either may fall the other way:
// in tests our two paths are up to 1.3e-2 apart in bf16 (one head; more heads average it).
// `lse`: the difference by the larger of 1 and its size. The program's own limits, at run time:
// those of tests are in tests/cuda/tolerance.hpp.
struct AttentionLimits {
  double row, lse;
};
constexpr AttentionLimits attention_limits(DType dtype) {
  return dtype == DType::bf16 ? AttentionLimits{3e-2, 1e-4} : AttentionLimits{1e-4, 1e-5};
}

struct AttentionTrial {
  Backend& backend;
  const Stream& stream;  // of the backend's operations
  AttentionEngine &candidate, &reference;
};

// Both passes of the candidate over the whole shape, twice, its outputs filled with NaN before;
// the reference goes through the same sequences one by one. Every 16th query's scores lie around
// -112: cuDNN has made NaN of rows whose exponentials all vanish (pytorch 196678). Returns what is
// wrong: something is not finite or was not written, is too far from the reference's, or has other
// bits the second time. Empty: nothing.
std::string check_attention(const AttentionTrial& trial, const AttentionShape& shape);

}  // namespace demist::cuda
