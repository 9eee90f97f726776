// Masked LM corruption, exactly as fairseq does it (method, section 2.1).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "data/micro_batch.hpp"
#include "data/source.hpp"

namespace demist::data {

class MlmMasker {
 public:
  // Throws ConfigError on fractions or ids that cannot be.
  MlmMasker(const MlmNoise& noise, std::int32_t mask_id, std::int32_t vocab_size);
  // Most targets of a row of n tokens.
  std::int64_t max_targets(std::int64_t n) const;
  // Noises every row of a batch without padding. Appends its targets, each of weight 1, and sets
  // the normalizer to their number. Random numbers: `key`, the row's sample name, the position.
  void corrupt(MicroBatch& batch, std::uint64_t key) const;

 private:
  std::int32_t replacement(std::int32_t id, std::uint64_t key, std::uint64_t sample,
                           std::uint32_t position) const;
  MlmNoise noise_;
  std::int32_t mask_id_, vocab_size_;
};

}  // namespace demist::data
