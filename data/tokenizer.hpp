// SentencePiece with XLM-R's id map. Format and identity: docs/formats/tokenizer.md.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace demist::data {

// <s>=0 <pad>=1 </s>=2 <unk>=3; piece i >= 3 of the model is id i + 1; <mask> is the last id.
struct SpecialIds {
  static constexpr std::int32_t bos = 0, pad = 1, eos = 2, unk = 3;
  static constexpr std::int32_t first_ordinary = 4;
};

struct TokenizerTraining {
  std::vector<std::filesystem::path> inputs;  // text files, a sentence or paragraph a line
  std::int32_t pieces = 8000;                 // model ids = pieces + 2
  double character_coverage = 0.9995;
  std::int64_t max_bytes = 0;  // 0: all; else an even deterministic sample of lines
};

class Tokenizer {
 public:
  explicit Tokenizer(const std::filesystem::path& model);  // throws DataError
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  std::int32_t vocab_size() const;  // pieces + 2
  std::int32_t mask_id() const;     // vocab_size() - 1; never produced by encode
  // SHA-256 over (pieces, scores, types, normalizer, special ids): equal vocabularies, equal hash,
  // whatever file they came in.
  const std::string& hash() const;
  // Ids without <s> and </s>. Thread-safe. Text that spells "<mask>" is ordinary text.
  std::vector<std::int32_t> encode(std::string_view text) const;
  // <s>, <pad> and </s> are skipped; <mask> is shown as "<mask>", <unk> as SentencePiece's U+2047.
  // Throws DataError on an id outside the vocabulary.
  std::string decode(std::span<const std::int32_t> ids) const;
  std::string piece(std::int32_t id) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct TokenizerTrainingSummary {
  std::uint64_t lines = 0, bytes = 0;            // not empty; bytes of the usable ones
  std::uint64_t too_long = 0, invalid_utf8 = 0;  // skipped: over 4,192 bytes, not UTF-8
  std::uint64_t sampled_lines = 0, sampled_bytes = 0;
};

// Trains a unigram model and writes it atomically to `model`. Same inputs, same vocabulary; on one
// thread, because SentencePiece's sums over several differ in their last bits and gain no time.
TokenizerTrainingSummary train_tokenizer(const TokenizerTraining& training,
                                         const std::filesystem::path& model);

}  // namespace demist::data
