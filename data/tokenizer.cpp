// SPDX-License-Identifier: Apache-2.0
#include "data/tokenizer.hpp"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <functional>
#include <unordered_map>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "core/philox.hpp"
#include "data/reader.hpp"
#include "data/sentencepiece_model.hpp"

namespace demist::data {
namespace {

constexpr std::int32_t kFirstPiece = 3;         // after the model's own <unk>, <s>, </s>
constexpr std::size_t kLongestSentence = 4192;  // bytes; SentencePiece drops longer lines itself
constexpr std::string_view kMaskText = "<mask>";

// XLM-R's remap of fairseq: the model's 0, 1, 2 are <unk>, <s>, </s>; <pad> takes a place of its
// own.
std::int32_t model_id(int piece) { return piece >= kFirstPiece ? piece + 1 : SpecialIds::unk; }

void require_xlmr_layout(const SentencePieceModel& model, const fs::path& path) {
  constexpr std::int32_t unigram = 1;
  if (model.model_type != unigram)
    throw DataError(path.string() + ": not a unigram model; train one with demist tokenizer train");
  if (model.unk_id != 0 || model.bos_id != 1 || model.eos_id != 2 ||
      model.pieces.size() <= kFirstPiece)
    throw DataError(path.string() +
                    ": special ids differ from XLM-R's (<unk> 0, <s> 1, </s> 2); train it with "
                    "--unk_id=0 --bos_id=1 --eos_id=2 --pad_id=-1");
}

}  // namespace

struct Tokenizer::Impl {
  sentencepiece::SentencePieceProcessor processor;
  std::string hash;
  std::int32_t pieces = 0;
};

Tokenizer::Tokenizer(const fs::path& model) : impl_(std::make_unique<Impl>()) {
  const std::string bytes = read_file(model);
  SentencePieceModel parsed;
  try {
    parsed = parse_sentencepiece_model(bytes);
  } catch (const DataError& error) {
    throw DataError(model.string() + ": " + error.what() + "; copy or train it again");
  }
  require_xlmr_layout(parsed, model);
  const auto status = impl_->processor.LoadFromSerializedProto(bytes);
  if (!status.ok())
    throw DataError(model.string() + ": SentencePiece refuses the model: " + status.ToString());
  impl_->hash = identity_of(parsed);
  impl_->pieces = static_cast<std::int32_t>(parsed.pieces.size());
}

Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

std::int32_t Tokenizer::vocab_size() const { return impl_->pieces + 2; }
std::int32_t Tokenizer::mask_id() const { return impl_->pieces + 1; }
const std::string& Tokenizer::hash() const { return impl_->hash; }

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> ids = impl_->processor.EncodeAsIds(text);
  for (std::int32_t& id : ids) id = model_id(id);
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  std::vector<std::string> pieces;
  for (const std::int32_t id : ids)
    if (id != SpecialIds::bos && id != SpecialIds::pad && id != SpecialIds::eos)
      pieces.push_back(piece(id));
  return impl_->processor.DecodePieces(pieces);
}

std::string Tokenizer::piece(std::int32_t id) const {
  if (id < 0 || id >= vocab_size())
    throw DataError("token id " + std::to_string(id) +
                    " is outside the tokenizer's vocabulary of " + std::to_string(vocab_size()) +
                    "; was the text encoded with another one?");
  if (id == SpecialIds::bos) return "<s>";
  if (id == SpecialIds::pad) return "<pad>";
  if (id == SpecialIds::eos) return "</s>";
  if (id == mask_id()) return std::string(kMaskText);
  return impl_->processor.IdToPiece(id == SpecialIds::unk ? 0 : id - 1);
}

namespace {

// Calls visit(line) for every line that can be trained on; counts the others.
TokenizerTrainingSummary for_each_sentence(const TokenizerTraining& training,
                                           const std::function<void(const std::string&)>& visit) {
  TokenizerTrainingSummary summary;
  for (const fs::path& path : training.inputs) {
    LineReader reader(path);
    std::string line;
    for (;;) {
      const auto found = reader.next_within(kLongestText, line);
      if (found == LineReader::Found::end) break;
      const bool endless = found == LineReader::Found::too_long;
      if (line.empty() && !endless) continue;
      ++summary.lines;
      if (endless || line.size() > kLongestSentence) {
        ++summary.too_long;
      } else if (!is_valid_utf8(line)) {
        ++summary.invalid_utf8;
      } else {
        summary.bytes += line.size();
        visit(line);
      }
    }
  }
  return summary;
}

struct Sample {
  std::vector<std::string> lines;
  std::uint64_t bytes = 0;
};

// Spreads `limit` bytes evenly over `total`: a line is taken while the sample stays under its share
// of what has gone by.
Sample read_sample(const TokenizerTraining& training, std::uint64_t total, std::uint64_t limit) {
  Sample sample;
  std::uint64_t seen = 0;
  for_each_sentence(training, [&](const std::string& line) {
    seen += line.size();
    if (uint128{sample.bytes + line.size()} * total > uint128{seen} * limit) return;
    sample.bytes += line.size();
    sample.lines.push_back(line);
  });
  return sample;
}

void warn_of_skips(const TokenizerTrainingSummary& summary) {
  const std::uint64_t skipped = summary.too_long + summary.invalid_utf8;
  if (skipped == 0) return;
  log::warning("tokenizer: left out " + std::to_string(skipped) + " of " +
               std::to_string(summary.lines) + " lines (" + std::to_string(summary.too_long) +
               " longer than " + std::to_string(kLongestSentence) + " bytes, " +
               std::to_string(summary.invalid_utf8) + " not UTF-8)");
}

class Sentences final : public sentencepiece::SentenceIterator {
 public:
  explicit Sentences(const std::vector<std::string>& lines) : lines_(lines) {}
  bool done() const override { return next_ == lines_.size(); }
  void Next() override { ++next_; }
  const std::string& value() const override { return lines_[next_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::vector<std::string>& lines_;
  std::size_t next_ = 0;
};

// SentencePiece says "Internal: file.cc(line) [condition] What is wrong.": what follows the ']'.
std::string reason_of(const std::string& status) {
  const std::size_t bracket = status.find("] ");
  std::string reason = bracket == std::string::npos ? status : status.substr(bracket + 2);
  if (reason.ends_with('.')) reason.pop_back();
  return reason.empty() ? "SentencePiece gives no reason" : reason;
}

std::string train_on(const std::vector<std::string>& lines, const TokenizerTraining& training) {
  const std::unordered_map<std::string, std::string> options = {
      {"model_type", "unigram"},
      {"vocab_size", std::to_string(training.pieces)},
      {"character_coverage", std::to_string(training.character_coverage)},
      {"normalization_rule_name", "nmt_nfkc"},
      {"unk_id", "0"},
      {"bos_id", "1"},
      {"eos_id", "2"},
      {"pad_id", "-1"},
      {"input_sentence_size", "0"},  // its own sampling draws from an unseeded generator
      {"max_sentence_length", std::to_string(kLongestSentence)},
      {"num_threads", "1"},
      {"minloglevel", "1"},
  };
  Sentences sentences(lines);
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(options, &sentences, &model);
  if (!status.ok())
    throw DataError("cannot train " + std::to_string(training.pieces) + " pieces on " +
                    std::to_string(lines.size()) + " lines: " + reason_of(status.ToString()) +
                    "; change the number of pieces or give more text");
  return model;
}

}  // namespace

TokenizerTrainingSummary train_tokenizer(const TokenizerTraining& training, const fs::path& model) {
  if (training.pieces <= kFirstPiece || training.max_bytes < 0)
    throw ConfigError(
        "tokenizer training needs more than 3 pieces and a size limit that is not negative");
  if (!(training.character_coverage >= 0.98 && training.character_coverage <= 1))
    throw ConfigError("tokenizer training needs a character coverage from 0.98 to 1");
  const fs::path folder = fs::absolute(model).parent_path();
  if (fs::is_directory(model) || !fs::is_directory(folder))
    throw ConfigError(model.string() + ": cannot be written; name a file in an existing folder");
  for (const fs::path& path : training.inputs)
    if (path == "-" || fs::is_fifo(path) || fs::is_character_file(path))
      throw ConfigError(path.string() + ": a tokenizer reads its text twice; give files, no pipes");
  TokenizerTrainingSummary summary = for_each_sentence(training, [](const std::string&) {});
  warn_of_skips(summary);
  if (summary.bytes == 0)
    throw DataError("tokenizer training: no usable line of text in " +
                    std::to_string(training.inputs.size()) +
                    " input file(s); give text in UTF-8, a sentence or paragraph a line");
  const auto limit = static_cast<std::uint64_t>(training.max_bytes);
  const Sample sample = read_sample(training, summary.bytes,
                                    limit == 0 ? summary.bytes : std::min(limit, summary.bytes));
  if (sample.lines.empty())
    throw ConfigError("tokenizer training: max_bytes = " + std::to_string(training.max_bytes) +
                      " holds not one line; raise it, or use 0 for all text");
  summary.sampled_lines = sample.lines.size();
  summary.sampled_bytes = sample.bytes;
  atomic_write(model, train_on(sample.lines, training));
  return summary;
}

}  // namespace demist::data
