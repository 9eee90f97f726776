// SPDX-License-Identifier: Apache-2.0
#include "data/packed_source.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include "core/error.hpp"
#include "core/philox.hpp"
#include "data/block_order.hpp"
#include "data/layout.hpp"
#include "data/masking.hpp"
#include "data/noising.hpp"

namespace demist::data {
namespace {

using Noiser = std::variant<MlmMasker, RdmNoiser>;

Noiser make_noiser(const PackedOptions& options) {
  if (const auto* mlm = std::get_if<MlmNoise>(&options.noise))
    return MlmMasker(*mlm, options.mask_id, options.vocab_size);
  return RdmNoiser(std::get<RdmNoise>(options.noise), options.mask_id, options.seed,
                   options.stream);
}

const PackedOptions& checked(const PackedOptions& options) {
  if (options.batch.sequence_length < 2)
    throw ConfigError("sequence_length is " + std::to_string(options.batch.sequence_length) +
                      "; it must be at least 2: <s> and a token");
  if (options.batch.micro_batches < 1)
    throw ConfigError("micro_batches is " + std::to_string(options.batch.micro_batches) +
                      "; a step needs at least 1");
  if (!(options.language_alpha >= 0 && options.language_alpha <= 1))
    throw ConfigError("language_alpha is " + std::to_string(options.language_alpha) +
                      "; it must be between 0 (all languages alike) and 1 (as they come)");
  if (options.window_blocks < 1) throw ConfigError("window_blocks is 0; it must be at least 1");
  if (options.mask_id < 0 || options.mask_id >= options.vocab_size)
    throw ConfigError("mask_id " + std::to_string(options.mask_id) +
                      " is outside the vocabulary of " + std::to_string(options.vocab_size));
  return options;
}

class PackedSource final : public Source {
 public:
  PackedSource(std::unique_ptr<const TokenStore> store, const PackedOptions& options)
      : options_(checked(options)),
        store_(std::move(store)),
        noiser_(make_noiser(options)),
        copies_(rdm() ? rdm()->copies() : 1),
        samples_(options.batch.max_tokens / options.batch.sequence_length / copies_),
        blocks_(*store_, static_cast<std::uint64_t>(cols() - 1)),
        order_(counts_or_throw(),
               {options.language_alpha, options.window_blocks, options.seed, options.stream}) {
    if (samples_ < 1)
      throw ConfigError("max_tokens " + std::to_string(options.batch.max_tokens) +
                        " does not hold " + std::to_string(copies_) + " x sequence_length " +
                        std::to_string(cols()) + "; raise max_tokens or shorten the sequence");
  }

  MicroBatch make(std::int64_t step, std::int32_t index) const override;
  std::int32_t micro_batches() const override { return options_.batch.micro_batches; }
  std::int64_t max_tokens() const override { return samples_ * copies_ * cols(); }
  std::int64_t max_rows() const override { return samples_ * copies_; }
  std::int64_t whole_columns() const override { return options_.document_mask ? 0 : cols(); }
  std::int64_t max_targets() const override {
    const auto* mlm = std::get_if<MlmMasker>(&noiser_);
    return samples_ * copies_ * (mlm ? mlm->max_targets(cols()) : cols() - 1);
  }

 private:
  const RdmNoiser* rdm() const { return std::get_if<RdmNoiser>(&noiser_); }
  std::int64_t cols() const { return options_.batch.sequence_length; }
  std::vector<std::uint64_t> counts_or_throw() const {
    const auto& counts = blocks_.counts();
    if (std::accumulate(counts.begin(), counts.end(), std::uint64_t{0}) == 0)
      throw DataError("the corpus holds no block of " + std::to_string(cols() - 1) +
                      " tokens; add text or lower sequence_length");
    return counts;
  }
  void fill_row(MicroBatch& batch, std::int64_t row, const BlockPlace& place) const;
  void corrupt(MicroBatch& batch) const;

  PackedOptions options_;
  std::unique_ptr<const TokenStore> store_;
  Noiser noiser_;
  std::int64_t copies_, samples_;  // samples of a micro-batch
  BlockIndex blocks_;
  BlockOrder order_;
};

MicroBatch PackedSource::make(std::int64_t step, std::int32_t index) const {
  ensure(step >= 0 && index >= 0 && index < micro_batches(), "PackedSource: no such micro-batch");
  MicroBatch batch = blank_micro_batch(step, index, samples_ * copies_, cols());
  const auto first = static_cast<std::uint64_t>((step * micro_batches() + index) * samples_);
  std::vector<BlockPlace> places;
  for (std::int64_t s = 0; s < samples_; ++s) {
    const auto [language, block] = order_(first + static_cast<std::uint64_t>(s));
    places.push_back(blocks_.place(language, block));
    // All reads of the batch are under way before the first is waited for.
    store_->prefetch(places.back().shard, places.back().begin,
                     static_cast<std::uint64_t>(cols() - 1));
  }
  for (std::int64_t s = 0; s < samples_; ++s) {
    fill_row(batch, s * copies_, places[static_cast<std::size_t>(s)]);
    if (copies_ == 2) copy_row(batch, s * 2, s * 2 + 1);
  }
  batch.real_tokens = batch.rows * batch.cols;
  std::iota(batch.sample.begin(), batch.sample.end(), first * static_cast<std::uint64_t>(copies_));
  corrupt(batch);
  return batch;
}

void PackedSource::fill_row(MicroBatch& batch, std::int64_t row, const BlockPlace& place) const {
  const auto ids = row_ids(batch, row);
  ids[0] = SpecialIds::bos;
  store_->read(place.shard, place.begin, ids.subspan(1));
  if (options_.document_mask)
    lay_out_documents(batch, row, place.begin, store_->document_offsets(place.shard));
  else
    lay_out_sequence(batch, row, cols());
}

void PackedSource::corrupt(MicroBatch& batch) const {
  if (const auto* mlm = std::get_if<MlmMasker>(&noiser_)) {
    // Sample names never repeat within a stage, so every epoch of a text has masks of its own.
    mlm->corrupt(batch, stream_key(options_.seed, options_.stream + "/mask",
                                   static_cast<std::uint64_t>(batch.step)));
    return;
  }
  // Continued pretraining: everything after <s> is response.
  const std::vector<Response> responses(static_cast<std::size_t>(samples_),
                                        {1, static_cast<std::int32_t>(cols())});
  const auto samples = static_cast<std::uint64_t>(samples_);
  rdm()->corrupt(batch, responses,
                 {static_cast<std::uint64_t>(batch.index) * samples,
                  static_cast<std::uint64_t>(micro_batches()) * samples});
}

}  // namespace

std::unique_ptr<Source> make_packed_source(std::unique_ptr<const TokenStore> store,
                                           const PackedOptions& options) {
  return std::make_unique<PackedSource>(std::move(store), options);
}

std::unique_ptr<Source> make_packed_source(std::shared_ptr<const Corpus> corpus,
                                           const PackedOptions& options) {
  if (corpus->vocab_size() > options.vocab_size)
    throw ConfigError("corpus " + corpus->name() + " was made with " +
                      std::to_string(corpus->vocab_size()) + " ids but the model has " +
                      std::to_string(options.vocab_size) +
                      "; rebuild the corpus or set the model's vocabulary");
  return make_packed_source(open_token_store(std::move(corpus)), options);
}

}  // namespace demist::data
