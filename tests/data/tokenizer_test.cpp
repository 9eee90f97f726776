// SPDX-License-Identifier: Apache-2.0
#include "data/tokenizer.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>

#include "data/sentencepiece_model.hpp"
#include "tests/data/text_fixture.hpp"

namespace demist::data {
namespace {

class TokenizerTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = test::fresh_folder("tokenizer");
    test::train_small_tokenizer(folder_, model());
  }
  static void TearDownTestSuite() { fs::remove_all(folder_); }
  static fs::path model() { return folder_ / "model.spm"; }
  static TokenizerTraining training() {
    TokenizerTraining training;
    training.inputs = {folder_ / "train.txt"};
    training.pieces = 300;
    return training;
  }

  static fs::path folder_;
};
fs::path TokenizerTest::folder_;

TEST_F(TokenizerTest, MapsIdsAsXlmRDoes) {
  const Tokenizer tokenizer(model());
  EXPECT_EQ(tokenizer.vocab_size(), 302);
  EXPECT_EQ(tokenizer.mask_id(), 301);
  EXPECT_EQ(tokenizer.piece(0), "<s>");
  EXPECT_EQ(tokenizer.piece(1), "<pad>");
  EXPECT_EQ(tokenizer.piece(2), "</s>");
  EXPECT_EQ(tokenizer.piece(3), "<unk>");
  EXPECT_EQ(tokenizer.piece(301), "<mask>");
  const SentencePieceModel parsed = parse_sentencepiece_model(read_file(model()));
  ASSERT_EQ(parsed.pieces.size(), 300u);
  for (std::int32_t piece = 3; piece < 300; ++piece)
    EXPECT_EQ(tokenizer.piece(piece + 1), parsed.pieces[static_cast<std::size_t>(piece)].text);
}

TEST_F(TokenizerTest, DecodeUndoesEncode) {
  const Tokenizer tokenizer(model());
  for (const std::string text : {"bado kilu mépa", "ta", "norri süta bado."}) {
    const auto ids = tokenizer.encode(text);
    EXPECT_GE(*std::ranges::min_element(ids), SpecialIds::first_ordinary);
    EXPECT_EQ(tokenizer.decode(ids), text);
  }
  EXPECT_TRUE(tokenizer.encode("").empty());
  EXPECT_TRUE(tokenizer.encode(" \n ").empty());
}

TEST_F(TokenizerTest, TextThatSpellsSpecialsStaysText) {
  const Tokenizer tokenizer(model());
  for (const std::string text : {"<mask>", "<s>", "</s>", "<pad>", "a <mask> b", "<s></s>"})
    for (const std::int32_t id : tokenizer.encode(text)) {
      EXPECT_NE(id, tokenizer.mask_id()) << text;
      EXPECT_GE(id, SpecialIds::unk) << text;
    }
  // <unk> is spelled by characters; only those that the model never saw are unknown.
  const auto spelled = tokenizer.encode("<unk>"), unknown = tokenizer.encode("\xE4\xBD\xA0");
  EXPECT_NE(std::ranges::count(unknown, SpecialIds::unk), 0);
  EXPECT_GT(spelled.size(), 1u);
}

TEST_F(TokenizerTest, DecodeShowsMaskAndUnknownOnly) {
  const Tokenizer tokenizer(model());
  std::vector<std::int32_t> ids = {SpecialIds::bos};
  for (const std::int32_t id : tokenizer.encode("bado")) ids.push_back(id);
  ids.insert(ids.end(), {tokenizer.mask_id(), SpecialIds::unk, SpecialIds::eos, SpecialIds::pad});
  EXPECT_EQ(tokenizer.decode(ids), "bado<mask> \xE2\x81\x87 ");
  const std::string message =
      test::message_of([&] { (void)tokenizer.decode(std::vector<std::int32_t>{302}); });
  EXPECT_NE(message.find("302"), std::string::npos);
}

TEST_F(TokenizerTest, IdentityIsTheVocabularyNotTheFile) {
  train_tokenizer(training(), folder_ / "again.spm");
  EXPECT_EQ(read_file(folder_ / "again.spm"), read_file(model()));
  const std::string hash = Tokenizer(model()).hash();
  EXPECT_EQ(hash.size(), 64u);
  EXPECT_EQ(Tokenizer(folder_ / "again.spm").hash(), hash);
  // Field 2 is how it was trained; its field 16 is the number of threads, one more here.
  test::write_text(folder_ / "note.spm",
                   read_file(model()) + std::string("\x12\x03\x80\x01\x02", 5));
  EXPECT_EQ(Tokenizer(folder_ / "note.spm").hash(), hash);

  SentencePieceModel changed = parse_sentencepiece_model(read_file(model()));
  EXPECT_EQ(identity_of(changed), hash);
  std::swap(changed.pieces[10], changed.pieces[11]);
  EXPECT_NE(identity_of(changed), hash);
  std::swap(changed.pieces[10], changed.pieces[11]);
  changed.pieces[10].score -= 1;
  EXPECT_NE(identity_of(changed), hash);
  changed.pieces[10].score += 1;
  changed.normalizer_charsmap += 'x';
  EXPECT_NE(identity_of(changed), hash);
}

TEST_F(TokenizerTest, ALimitBelowTheShortestLineIsRefused) {
  TokenizerTraining limited = training();
  limited.max_bytes = 1;
  try {
    train_tokenizer(limited, folder_ / "none.spm");
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("max_bytes = 1 holds not one line"), std::string::npos)
        << error.what();
  }
}

TEST_F(TokenizerTest, SamplesLinesEvenlyWithinTheLimit) {
  const std::string long_line(5000, 'x');
  test::write_text(folder_ / "dirty.txt",
                   test::make_text(400, 1) + long_line + "\n\xFF\xFE broken\n");
  TokenizerTraining limited = training();
  limited.inputs = {folder_ / "dirty.txt"};
  limited.max_bytes = 20000;
  limited.pieces = 100;
  testing::internal::CaptureStderr();
  const TokenizerTrainingSummary summary = train_tokenizer(limited, folder_ / "limited.spm");
  const std::string warned = testing::internal::GetCapturedStderr();
  EXPECT_NE(warned.find("left out 2 of "), std::string::npos) << warned;
  EXPECT_NE(warned.find("(1 longer than 4192 bytes, 1 not UTF-8)"), std::string::npos) << warned;
  EXPECT_EQ(summary.too_long, 1u);
  EXPECT_EQ(summary.invalid_utf8, 1u);
  EXPECT_LE(summary.sampled_bytes, 20000u);
  EXPECT_GT(summary.sampled_bytes, 19800u);
  EXPECT_GT(summary.bytes, 40000u);
  EXPECT_EQ(Tokenizer(folder_ / "limited.spm").vocab_size(), 102);
}

TEST_F(TokenizerTest, TrainingErrorsAreClear) {
  TokenizerTraining too_many = training();
  too_many.pieces = 100000;
  EXPECT_NE(test::message_of([&] { train_tokenizer(too_many, folder_ / "x.spm"); }).find("100000"),
            std::string::npos);
  EXPECT_FALSE(fs::exists(folder_ / "x.spm"));
  TokenizerTraining empty = training();
  test::write_text(folder_ / "empty.txt", "\n\n");
  empty.inputs = {folder_ / "empty.txt"};
  EXPECT_THROW(train_tokenizer(empty, folder_ / "x.spm"), DataError);
  empty.inputs = {"-"};
  EXPECT_THROW(train_tokenizer(empty, folder_ / "x.spm"), ConfigError);
}

TEST_F(TokenizerTest, RefusesDamagedModels) {
  const std::string whole = read_file(model());
  const fs::path path = folder_ / "damaged.spm";
  for (const std::string& content :
       {std::string(), std::string("not a model"), whole.substr(0, whole.size() / 2),
        whole.substr(0, whole.size() - 1)}) {
    test::write_text(path, content);
    EXPECT_NE(test::message_of([&] { Tokenizer{path}; }).find("damaged.spm"), std::string::npos);
  }
  EXPECT_NE(test::message_of([&] { Tokenizer{folder_ / "none.spm"}; }).find("none.spm"),
            std::string::npos);
}

}  // namespace
}  // namespace demist::data
