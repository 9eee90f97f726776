// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "worker/optimizer/gradient_reducer.hpp"
#include "worker/optimizer/piece_table.hpp"

namespace demist {
namespace {

// A tensor's largest |gradient| of the last step lands near 2^kTargetBits: 2^40 steps of resolution
// below it (fp32 has 2^24), and 22 bits above it for the sum and for growth before a redo.
constexpr int kTargetBits = 40;
constexpr int kSumBits = 62;
// Before the first step nothing is known; gradients of sums rarely pass 2^20, resolution is 2^-42.
constexpr int kFirstExponent = 42;
constexpr int kMaxExponent = 120;  // gradients that vanish do not drive the scale to infinity

class ExactReducer final : public GradientReducer {
 public:
  ExactReducer(const ParameterTable& table, Backend& backend, ParallelGroups& groups,
               std::int64_t max_micro_batches)
      : GradientReducer(table, backend, groups),
        limit_(std::ldexp(1.0, kSumBits) / static_cast<double>(max_micro_batches)) {
    for (const Parameter& p : table.parameters()) tensors_.push_back(&p);
    std::ranges::sort(tensors_, {}, &Parameter::offset);
    exponent_.assign(tensors_.size(), kFirstExponent);
    scale_ = Buffer<double>(tensors_.size(), backend.memory());
    cut_into_pieces();
    piece_largest_ = Buffer<float>(arena_.size(), backend.memory());
    // Of one gradient in all there is no sum: it is rounded where it lies (do_begin).
    if (!is_alone() || max_micro_batches > 1)
      sum_ = Buffer<std::int64_t>(static_cast<std::size_t>(table.size()), backend.memory());
    if (!is_alone())
      shard_sum_ =
          Buffer<std::int64_t>(static_cast<std::size_t>(slices().back().at + slices().back().end -
                                                        slices().back().begin),
                               backend.memory());
  }

  std::size_t bytes() const override {
    return sum_.bytes() + shard_sum_.bytes() + arena_.bytes() + mine_.bytes() + scale_.bytes() +
           piece_largest_.bytes();
  }

  std::string state() const override {
    nlohmann::json exponents;
    for (std::size_t i = 0; i < tensors_.size(); ++i) exponents[tensors_[i]->name] = exponent_[i];
    return nlohmann::json{{"fixed_point_exponents", exponents}}.dump();
  }

  void set_state(const std::string& text) override {
    try {
      const auto json = nlohmann::json::parse(text);
      for (std::size_t i = 0; i < tensors_.size(); ++i)
        exponent_[i] = json.at("fixed_point_exponents").at(tensors_[i]->name).get<int>();
    } catch (const nlohmann::json::exception& error) {
      throw CheckpointError(
          std::string("the checkpoint has no usable fixed-point scales; it was saved with another "
                      "reduction: set reduction as it was, or start a new stage from it (") +
          error.what() + ")");
    }
  }

 private:
  void do_begin() override {
    backend_.zero(piece_largest_.data(), piece_largest_.bytes());
    std::vector<double> scale;
    for (const int exponent : exponent_) scale.push_back(std::ldexp(1.0, exponent));
    backend_.upload(scale_.data(), scale.data(), scale_.bytes());
    // One gradient in all: it is rounded where it lies, and no integers go through memory.
    single_ = is_alone() && own_micro_batches() == 1;
    if (single_) return;
    backend_.zero(sum_.data(), sum_.bytes());
  }

  void add_bucket(std::span<const float> grads, std::size_t bucket) override {
    only_ = grads;
    const std::size_t first = first_piece_[bucket], last = first_piece_[bucket + 1];
    // What does not fit spoils the sum; do_finish() learns of it from the largest value.
    backend_.fixed_point_add(single_ ? std::span<std::int64_t>() : sum_.span(),
                             piece_largest_.span().subspan(first, last - first), grads,
                             arena_.range(first, last, scale_.span()));
  }

  void reduce_bucket(std::size_t bucket) override {
    reduce_scatter(shard_sum_.span(), std::span<const std::int64_t>(sum_.span()), bucket);
  }

  Result do_finish() override {
    std::vector<float> largest = largest_of_tensors();
    groups_.world->all_reduce_max(largest);
    if (std::any_of(largest.begin(), largest.end(), [](float x) { return !std::isfinite(x); }))
      return Result::not_finite;
    bool redo = false;
    for (std::size_t i = 0; i < largest.size(); ++i) redo |= !fits(largest[i], exponent_[i]);
    for (std::size_t i = 0; i < largest.size(); ++i)
      if (!redo || !fits(largest[i], exponent_[i]))
        exponent_[i] = next_exponent(largest[i], exponent_[i]);
    if (redo) return Result::redo;

    if (single_)
      backend_.fixed_point_round(shard(), only_, mine_.all(scale_.span()));
    else
      backend_.fixed_point_to_float(shard(), is_alone() ? sum_.span() : shard_sum_.span(),
                                    mine_.all(scale_.span()));
    return Result::ready;
  }

  // Of all tensors: pieces of the arena, bucket after bucket. Of my shard: pieces of it.
  void cut_into_pieces() {
    const auto buckets = table_.buckets();
    for (std::size_t b = 0; b < buckets.size(); ++b) {
      first_piece_.push_back(arena_.size());
      for (std::size_t i = 0; i < tensors_.size(); ++i) {
        const Parameter& p = *tensors_[i];
        const std::int64_t end = p.offset + p.local_size();
        if (buckets[b].begin <= p.offset && end <= buckets[b].end)
          arena_.add(p.offset, p.local_size(), i);
        const ShardSlice& mine = slices()[b];
        const std::int64_t from = std::max(p.offset, mine.begin), to = std::min(end, mine.end);
        if (from < to) mine_.add(mine.at + from - mine.begin, to - from, i);
      }
    }
    first_piece_.push_back(arena_.size());
    arena_.upload(backend_);
    mine_.upload(backend_);
  }

  std::vector<float> largest_of_tensors() {
    std::vector<float> pieces(arena_.size()), largest(tensors_.size());
    backend_.download(pieces.data(), piece_largest_.data(), piece_largest_.bytes());
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      float& most = largest[static_cast<std::size_t>(arena_[i].tensor)];
      most = larger(most, pieces[i]);
    }
    return largest;
  }
  bool fits(float largest, int exponent) const {
    return std::ldexp(static_cast<double>(largest), exponent) <= limit_;
  }
  static int next_exponent(float largest, int exponent) {
    if (largest == 0) return exponent;
    return std::min(kMaxExponent, kTargetBits - std::ilogb(largest));
  }

  const double limit_;                     // largest |gradient| * 2^exponent of one micro-batch
  std::vector<const Parameter*> tensors_;  // in the order of the arena
  std::vector<int> exponent_;
  PieceTable arena_, mine_;
  std::vector<std::size_t> first_piece_;  // of each bucket, in arena_
  Buffer<double> scale_;                  // of the step under way
  Buffer<float> piece_largest_;           // |gradient| of each piece in this step
  Buffer<std::int64_t> sum_, shard_sum_;
  std::span<const float> only_;
  bool single_ = false;
};

}  // namespace

std::unique_ptr<GradientReducer> make_exact_reducer(const ParameterTable& table, Backend& backend,
                                                    ParallelGroups& groups,
                                                    std::int64_t max_micro_batches) {
  return std::make_unique<ExactReducer>(table, backend, groups, max_micro_batches);
}

}  // namespace demist
