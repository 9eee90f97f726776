// Text scores, matching sacreBLEU and rouge_score digit for digit (tests/golden/metrics).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

namespace demist::evaluate {

struct Bleu {
  double score = 0;                    // 0..100
  std::array<double, 4> precisions{};  // percent
  double brevity_penalty = 0;
  std::int64_t hypothesis_length = 0, reference_length = 0;
  std::string signature;  // as sacreBLEU prints it
};
// Corpus BLEU-4, one reference, 13a tokenization, exponential smoothing (Post 2018; sacreBLEU's
// defaults). lowercase reproduces the paper's evaluation.
Bleu bleu(const std::vector<std::string>& hypotheses, const std::vector<std::string>& references,
          bool lowercase = false);
std::string tokenize_13a(std::string_view line);

// ROUGE-L F1 in percent (Lin 2004), mean over pairs; rouge_score's tokenizer without stemming.
double rouge_l(const std::vector<std::string>& hypotheses,
               const std::vector<std::string>& references);

}  // namespace demist::evaluate
