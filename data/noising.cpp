// SPDX-License-Identifier: Apache-2.0
#include "data/noising.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/error.hpp"
#include "core/philox.hpp"

namespace demist::data {
namespace {

// A draw's second 53-bit uniform; the first is uniform() of words 0 and 1.
double second_uniform(const Philox4& words) {
  return uniform(Philox4{{words.v[2], words.v[3], 0, 0}});
}

constexpr std::uint8_t kLateBit = 1, kEarlyBit = 2;

}  // namespace

StepTimes::StepTimes(const RdmNoise& noise, std::uint64_t key, std::uint64_t samples)
    : noise_(noise),
      key_(key),
      strata_(noise.sampling == TimeSampling::stratified ? samples : 1),
      first_(strata_, mix64(key ^ 1)),
      second_(strata_, mix64(key ^ 2)) {
  // Draw 1 names the rotations; draw 0 the samples' own numbers.
  first_shift_ = uniform_int(draw(key_, 0, 0, 1), strata_);
  second_shift_ = uniform_int(draw(key_, 1, 0, 1), strata_);
}

std::int32_t StepTimes::time(double stratum, double u) const {
  const double where = (stratum + u) / static_cast<double>(strata_);
  // Rounding may lift the last stratum's end to 1.
  return std::min(noise_.steps, 1 + static_cast<std::int32_t>(noise_.steps * where));
}

TimePair StepTimes::operator()(std::uint64_t k) const {
  const Philox4 words = draw(key_, k, 0);
  const std::uint64_t place = noise_.sampling == TimeSampling::stratified ? k : 0;
  const auto stratum = [&](const Permutation& order, std::uint64_t shift) {
    return static_cast<double>((order(place) + shift) % strata_);
  };
  const std::int32_t a = time(stratum(first_, first_shift_), uniform(words));
  if (!noise_.coupled) return {a, a};
  const std::int32_t b = time(stratum(second_, second_shift_), second_uniform(words));
  return {std::max(a, b), std::min(a, b)};
}

double time_weight(TimeWeight weight, std::int32_t t, std::int32_t steps) {
  switch (weight) {
    case TimeWeight::linear:
      return steps - (t - 1);
    case TimeWeight::reciprocal:
      return static_cast<double>(steps) / t;
    case TimeWeight::constant:
      return steps;
  }
  throw InternalError("time_weight: unknown weight");
}

RdmNoiser::RdmNoiser(const RdmNoise& noise, std::int32_t mask_id, std::uint64_t seed,
                     std::string stream)
    : noise_(noise), mask_id_(mask_id), seed_(seed), stream_(std::move(stream)) {
  if (noise.steps < 1)
    throw ConfigError("diffusion steps is " + std::to_string(noise.steps) +
                      "; it must be at least 1");
  if (!(noise.label_smoothing >= 0 && noise.label_smoothing < 1))
    throw ConfigError("label_smoothing is " + std::to_string(noise.label_smoothing) +
                      "; it must be in [0, 1)");
}

// Bits of response position i: masked in the late copy, masked in the early copy. The early mask is
// a subset of the late one, or a fresh draw when the times are equal (method 3.3, item 2).
void RdmNoiser::draw_masks(std::span<std::uint8_t> masks, const TimePair& times, std::uint64_t key,
                           std::uint64_t sample) const {
  const double late = static_cast<double>(times.late) / noise_.steps;
  const bool fresh = times.late == times.early;
  const double early = fresh ? late : static_cast<double>(times.early) / times.late;
  for (std::size_t i = 0; i < masks.size(); ++i) {
    const Philox4 words = draw(key, sample, static_cast<std::uint32_t>(i));
    const bool in_late = uniform(words) < late;
    const bool in_early = (fresh || in_late) && second_uniform(words) < early;
    masks[i] = static_cast<std::uint8_t>((in_late ? kLateBit : 0) | (in_early ? kEarlyBit : 0));
  }
}

void RdmNoiser::apply(MicroBatch& batch, const Row& row, std::span<const std::uint8_t> masks,
                      std::uint8_t copy_bit) const {
  // 1 / (rows * N): N counts all response tokens, masked or not (item 4).
  const double share = 1.0 / (static_cast<double>(batch.rows) * static_cast<double>(masks.size()));
  const double weight =
      (1 - noise_.label_smoothing) * time_weight(noise_.weight, row.time, noise_.steps) * share;
  const double smooth = noise_.label_smoothing * noise_.steps * share;  // no time weight (item 5)
  for (std::size_t i = 0; i < masks.size(); ++i) {
    if (!(masks[i] & copy_bit)) continue;
    const std::int64_t token =
        row.row * batch.cols + row.response.begin + static_cast<std::int64_t>(i);
    std::int32_t& id = batch.ids[static_cast<std::size_t>(token)];
    batch.target_row.push_back(static_cast<std::int32_t>(token));
    batch.target_id.push_back(std::exchange(id, mask_id_));
    batch.weight.push_back(static_cast<float>(weight));
    batch.smooth.push_back(static_cast<float>(smooth));
  }
}

void RdmNoiser::corrupt(MicroBatch& batch, std::span<const Response> responses,
                        const StepShare& share) const {
  const auto step = static_cast<std::uint64_t>(batch.step);
  const std::uint64_t key = stream_key(seed_, stream_ + "/noise", step);
  const StepTimes times(noise_, stream_key(seed_, stream_ + "/time", step), share.total);
  std::vector<std::uint8_t> masks;
  for (std::size_t s = 0; s < responses.size(); ++s) {
    const TimePair pair = times(share.first + s);
    const std::int64_t row = static_cast<std::int64_t>(s) * copies();
    const Response& response = responses[s];
    masks.resize(static_cast<std::size_t>(response.end - response.begin));
    draw_masks(masks, pair, key, batch.sample[static_cast<std::size_t>(row)]);
    apply(batch, {row, response, pair.late}, masks, kLateBit);
    if (noise_.coupled) apply(batch, {row + 1, response, pair.early}, masks, kEarlyBit);
  }
  batch.normalizer = 1;
}

}  // namespace demist::data
