// SPDX-License-Identifier: Apache-2.0
#include "worker/attention_rules.hpp"

#include <array>
#include <cstdio>

namespace demist {
namespace {

// cuDNN's versions that are not to be used. Among them: 9.10.0 and 9.10.1, whose bf16 forward pass
// is broken; 9.13 and 9.14, wrong for long sequences in CUDA graphs.
struct BlockedVersions {
  std::size_t first, last;
  const char* why;
};
constexpr std::array kBlocked{
    BlockedVersions{1, 91799, "reads workspace that it did not write, and has other known faults"},
};
constexpr std::int64_t kColumnUnit = 128;  // else a hidden mask, and NaN (pytorch 196678)
constexpr std::int64_t kMostHeadDim = 128;

std::string version_name(std::size_t version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

std::string short_number(float value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", static_cast<double>(value));
  return text;
}

}  // namespace

std::string cudnn_name(std::size_t version) { return "cuDNN " + version_name(version); }

Refusal cudnn_refusal(const CudnnCase& c) {
  if (c.version == 0)
    return {"this build has no cuDNN attention",
            "configure with -DDEMIST_CUDNN_FRONTEND=DIR, or use OWN"};
  for (const BlockedVersions& blocked : kBlocked)
    if (c.version >= blocked.first && c.version <= blocked.last)
      return {cudnn_name(c.version) + " " + blocked.why,
              "use cuDNN " + version_name(blocked.last + 1) + " or newer, or OWN"};
  if (c.compute != DType::bf16)
    return {"cuDNN has no fp32 attention", "use precision: BF16, or OWN"};
  if (c.head_dim % 8 != 0 || c.head_dim > kMostHeadDim)
    return {"heads of " + std::to_string(c.head_dim) +
                " are none of cuDNN's: multiples of 8 up to " + std::to_string(kMostHeadDim),
            "use OWN"};
  if (c.dropout > 0)
    return {"attention_dropout is " + short_number(c.dropout) +
                ", and cuDNN would drop other elements than every other device",
            "set it to 0, or use OWN"};
  if (c.columns == 0)
    return {"rows have padding, or tokens that do not see their whole row (tasks, document_mask)",
            "use OWN"};
  if (c.columns % kColumnUnit != 0)
    return {"rows of " + std::to_string(c.columns) + " tokens are no multiple of " +
                std::to_string(kColumnUnit),
            "change batch.sequence_length, or use OWN"};
  return {};
}

}  // namespace demist
