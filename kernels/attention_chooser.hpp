// Which implementation computes attention, where a device has several.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "core/tensor.hpp"
#include "kernels/types.hpp"

namespace demist {

inline constexpr std::array kAttentionPaths{AttentionPath::own, AttentionPath::unfused,
                                            AttentionPath::cudnn};
// As recipes write it.
inline const char* name_of(AttentionPath path) {
  static constexpr std::array names{"OWN", "UNFUSED", "CUDNN"};
  return names[static_cast<std::size_t>(path)];
}

// A micro-batch's attention on one rank; every token sees all of its sequence.
struct AttentionShape {
  std::int64_t rows = 0, cols = 0;                       // sequences, tokens of each
  std::int64_t heads = 0, first_head = 0, head_dim = 0;  // as in Attention
  std::int64_t lse_ld = 0;                               // as planned: at least rows * cols
  DType dtype = DType::bf16;
  Dropout dropout = {};
};

class AttentionChooser {
 public:
  virtual ~AttentionChooser() = default;
  // 91900: 9.19.0. 0: this build is without it.
  virtual std::size_t cudnn_version() const = 0;
  // Computes both passes of `path` twice, on made-up operands, and a second time by the reference.
  // Empty: they agree; else what was wrong, or why there was nothing to compare. Waits for the
  // device and needs its memory for a while. Throws EnvironmentError when the device is lost.
  virtual std::string check(AttentionPath path, const AttentionShape& shape) = 0;
  // From now on. Throws EnvironmentError when this build is without it.
  virtual void use(AttentionPath path) = 0;
};

}  // namespace demist
