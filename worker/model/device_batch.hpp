// A micro-batch in the backend's memory.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "data/micro_batch.hpp"
#include "kernels/backend.hpp"

namespace demist {

// Tokens as the encoder sees them.
struct EncoderInput {
  TokenGrid grid;
  KeyRanges keys;
  std::span<const std::int32_t> ids, positions;  // [n]
  Grouping id_groups, position_groups;           // for the backward pass only
};

// What the head needs: which rows of the encoder's output, and what is asked of them.
struct HeadInput {
  std::span<const std::int32_t> target_row;  // [m]
  CrossEntropyRows rows;
  std::int64_t targets() const { return static_cast<std::int64_t>(target_row.size()); }
};

// Views of one batch at a time. In host memory they point into the batch that was given, which must
// outlive its use; else everything is packed and copied in one piece, beside what the backend still
// does with the batch before: there is room for two.
class DeviceBatch {
 public:
  // Outside host memory: room for any batch of at most `tokens` and `targets`.
  DeviceBatch(Backend& backend, std::int64_t tokens, std::int64_t targets);
  static std::size_t most_bytes(std::int64_t tokens, std::int64_t targets);  // of both
  void load(const data::MicroBatch& batch, std::int64_t vocab_size);
  // The encoder alone, on `wanted` rows; spans in host memory.
  void load(const EncoderInput& input, std::span<const std::int32_t> wanted);
  const EncoderInput& encoder() const { return encoder_; }
  const HeadInput& head() const { return head_; }
  std::size_t bytes() const { return device_.bytes(); }

 private:
  void move_to_device();

  Backend& backend_;
  EncoderInput encoder_;
  HeadInput head_;
  std::vector<std::byte> packed_;
  Buffer<std::byte> device_;  // two of them
  bool second_ = false;       // where the last one lies
};

}  // namespace demist
