// Reparameterized absorbing diffusion: time steps, masks and weights (method, section 3.3).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "data/micro_batch.hpp"
#include "data/permutation.hpp"
#include "data/source.hpp"

namespace demist::data {

// Two times of one sample in 1..T, late >= early. Without coupling only `late` is used.
struct TimePair {
  std::int32_t late = 1, early = 1;
};

// The times of one training step's n samples. The two draws of sample k are
// 1 + floor(T (pi(k) + u) / n): pi is a keyed permutation of the n strata followed by a keyed
// rotation, one for each draw. The rotation alone makes each stratum, and so each time, exactly
// uniform for every k; and the n samples together cover every stratum once. Independent times are
// the same with n = 1.
class StepTimes {
 public:
  StepTimes(const RdmNoise& noise, std::uint64_t key, std::uint64_t samples);
  TimePair operator()(std::uint64_t k) const;  // REQUIRES: k < samples

 private:
  std::int32_t time(double stratum, double u) const;
  RdmNoise noise_;
  std::uint64_t key_, strata_;
  Permutation first_, second_;
  std::uint64_t first_shift_ = 0, second_shift_ = 0;
};

// Columns of a row that may be noised: the response with its </s>.
struct Response {
  std::int32_t begin = 0, end = 0;
};

// A micro-batch's samples among those of its step, for the strata of time.
struct StepShare {
  std::uint64_t first = 0, total = 1;
};

class RdmNoiser {
 public:
  // Throws ConfigError. `stream` separates stages that share a seed.
  RdmNoiser(const RdmNoise& noise, std::int32_t mask_id, std::uint64_t seed, std::string stream);
  std::int64_t copies() const { return noise_.coupled ? 2 : 1; }
  // Row r of copies() * samples belongs to responses[r / copies()] and holds its clean ids; sample
  // names must be set. Masks rows, appends targets with their weights, sets the normalizer to 1:
  // the weights already hold 1 / rows, so a micro-batch's value is a mean over its rows.
  void corrupt(MicroBatch& batch, std::span<const Response> responses,
               const StepShare& share) const;

 private:
  struct Row {
    std::int64_t row;
    Response response;
    std::int32_t time;
  };
  void draw_masks(std::span<std::uint8_t> masks, const TimePair& times, std::uint64_t key,
                  std::uint64_t sample) const;
  void apply(MicroBatch& batch, const Row& row, std::span<const std::uint8_t> masks,
             std::uint8_t copy_bit) const;
  RdmNoise noise_;
  std::int32_t mask_id_;
  std::uint64_t seed_;
  std::string stream_;
};

// T * lambda_{t-1}, the weight of a masked token before its row's 1 / (rows * N).
double time_weight(TimeWeight weight, std::int32_t t, std::int32_t steps);

}  // namespace demist::data
