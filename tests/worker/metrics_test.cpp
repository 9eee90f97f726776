// Scores equal to sacreBLEU's and rouge_score's (golden file), and baselines.
// SPDX-License-Identifier: Apache-2.0
#include "worker/evaluate/metrics.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/file.hpp"
#include "worker/evaluate/baseline.hpp"
#include "worker/evaluate/text.hpp"

namespace demist::evaluate {
namespace {

constexpr double kTolerance = 1e-9;

class MetricsGolden : public testing::Test {
 protected:
  const nlohmann::json golden_ =
      nlohmann::json::parse(read_file(std::filesystem::path(DEMIST_GOLDEN_DIR) / "metrics.json"));

  static void expect_bleu(const Bleu& ours, const nlohmann::json& theirs) {
    EXPECT_NEAR(ours.score, theirs.at("score").get<double>(), kTolerance);
    EXPECT_NEAR(ours.brevity_penalty, theirs.at("brevity_penalty").get<double>(), kTolerance);
    EXPECT_EQ(ours.hypothesis_length, theirs.at("lengths")[0].get<std::int64_t>());
    EXPECT_EQ(ours.reference_length, theirs.at("lengths")[1].get<std::int64_t>());
    for (std::size_t n = 0; n < 4; ++n)
      EXPECT_NEAR(ours.precisions[n], theirs.at("precisions")[n].get<double>(), kTolerance);
  }
  static void expect_scores(const std::vector<std::string>& hypotheses,
                            const std::vector<std::string>& references,
                            const nlohmann::json& theirs) {
    expect_bleu(bleu(hypotheses, references), theirs.at("bleu"));
    expect_bleu(bleu(hypotheses, references, true), theirs.at("bleu_lc"));
    EXPECT_NEAR(rouge_l(hypotheses, references), theirs.at("rouge_l").get<double>(), kTolerance);
  }
};

TEST_F(MetricsGolden, TokensAre13a) {
  for (const auto& pair : golden_.at("pairs"))
    EXPECT_EQ(tokenize_13a(pair.at("hypothesis").get<std::string>()), pair.at("tokens_13a"));
}

TEST_F(MetricsGolden, EveryPairScoresAsItsReferenceProgramsSay) {
  ASSERT_GE(golden_.at("pairs").size(), 60u);
  for (const auto& pair : golden_.at("pairs")) {
    SCOPED_TRACE(pair.at("hypothesis").dump());
    expect_scores({pair.at("hypothesis")}, {pair.at("reference")}, pair);
  }
}

TEST_F(MetricsGolden, EveryCorpusScoresAsItsReferenceProgramsSay) {
  for (const auto& corpus : golden_.at("corpora")) {
    std::vector<std::string> hypotheses, references;
    for (const std::size_t index : corpus.at("indices")) {
      hypotheses.push_back(golden_.at("pairs")[index].at("hypothesis"));
      references.push_back(golden_.at("pairs")[index].at("reference"));
    }
    expect_scores(hypotheses, references, corpus);
  }
}

TEST_F(MetricsGolden, LowerCaseIsPythons) {
  for (const auto& entry : golden_.at("lower"))
    EXPECT_EQ(lower(entry.at("text").get<std::string>()), entry.at("lower"));
  std::uint64_t sum = 0;  // over every code point: see make_metrics_golden.py
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    append_utf8(text, c);
    const std::string small = lower(text);
    for (std::size_t at = 0; at < small.size(); at += code_point_at(small, at).bytes)
      sum += (std::uint64_t{c} + 1) * code_point_at(small, at).value;
  }
  EXPECT_EQ(sum, golden_.at("lower_sum").get<std::uint64_t>());
}

TEST(Metrics, SignatureNamesTheSettings) {
  const std::string ours = "|eff:no|tok:13a|smooth:exp|version:demist-" DEMIST_VERSION;
  EXPECT_EQ(bleu({"a"}, {"a"}).signature, "nrefs:1|case:mixed" + ours);
  EXPECT_EQ(bleu({"a"}, {"a"}, true).signature, "nrefs:1|case:lc" + ours);
}

TEST(Metrics, EmptyCorporaScoreZero) {
  EXPECT_EQ(bleu({}, {}).score, 0);
  EXPECT_EQ(rouge_l({}, {}), 0);
}

TEST(Metrics, UnequalCountsAreAnError) {
  EXPECT_THROW(bleu({"a"}, {}), DataError);
  EXPECT_THROW(rouge_l({"a"}, {"a", "b"}), DataError);
}

TEST(Metrics, BytesThatAreNotUtf8PassThrough) {
  const std::string broken = "ok \xff\xc3 end\xe2\x82";
  EXPECT_EQ(lower(broken), broken);
  EXPECT_EQ(bleu({broken}, {broken}).hypothesis_length, 3);
}

TEST(Baseline, LeadTakesAsManyWordsAsTheReferenceHas) {
  EXPECT_EQ(baseline_response(Baseline::lead, " one  two\tthree four", "a b c"), "one two three");
  EXPECT_EQ(baseline_response(Baseline::lead, "one two", "a b c"), "one two");
  EXPECT_EQ(baseline_response(Baseline::lead, "one two", ""), "");
}

TEST(Baseline, CopyIsThePrompt) {
  EXPECT_EQ(baseline_response(Baseline::copy, "one  two", "a"), "one  two");
}

TEST(Baseline, FirstSentenceEndsAtAStopBeforeWhiteSpace) {
  EXPECT_EQ(first_sentence("Version 1.2 is out. More follows."), "Version 1.2 is out.");
  EXPECT_EQ(first_sentence("Really?\u00a0Yes."), "Really?");
  EXPECT_EQ(first_sentence("no stop here"), "no stop here");
  EXPECT_EQ(first_sentence("One!"), "One!");
  EXPECT_EQ(first_sentence(""), "");
}

TEST(Baseline, NamesAreChecked) {
  EXPECT_EQ(baseline_from_name("lead"), Baseline::lead);
  EXPECT_EQ(baseline_from_name("copy"), Baseline::copy);
  EXPECT_EQ(baseline_from_name("first_sentence"), Baseline::first_sentence);
  EXPECT_THROW(baseline_from_name("oracle"), ConfigError);
}

}  // namespace
}  // namespace demist::evaluate
