// SPDX-License-Identifier: Apache-2.0
#include "worker/evaluate/metrics.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <unordered_map>
#include <utility>

#include "core/error.hpp"
#include "worker/evaluate/text.hpp"

namespace demist::evaluate {
namespace {

constexpr std::size_t kOrders = 4;

void require_pairs(const char* metric, std::size_t hypotheses, std::size_t references) {
  if (hypotheses != references)
    throw DataError(std::string(metric) + ": " + std::to_string(hypotheses) + " hypotheses but " +
                    std::to_string(references) + " references; give one reference for each");
}

// --- 13a -----------------------------------------------------------------------------------------
// Every pattern is about ASCII bytes and their neighbours, so UTF-8 is handled byte by byte: the
// bytes of other characters are neither digits nor punctuation.

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_stop(char c) { return c == '.' || c == ','; }
// [\{-\~\[-\` -\&\(-\+\:-\@\/]: ASCII punctuation and the space, but not ' , - .
bool is_symbol(char c) {
  return (c >= '{' && c <= '~') || (c >= '[' && c <= '`') || (c >= ' ' && c <= '&') ||
         (c >= '(' && c <= '+') || (c >= ':' && c <= '@') || c == '/';
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (std::size_t at = text.find(from); at != std::string::npos;
       at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
}

// re.sub over adjacent bytes (a, b) with matches(a, b): left to right, matches do not overlap.
template <class Matches>
std::string substitute_pairs(const std::string& text, Matches matches, std::string_view before,
                             std::string_view between, std::string_view after) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (i + 1 < text.size() && matches(text[i], text[i + 1])) {
      out.append(before).append(1, text[i]).append(between).append(1, text[i + 1]).append(after);
      ++i;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

std::string separate_symbols(std::string_view text) {
  std::string out;
  for (const char c : text)
    if (is_symbol(c))
      out.append({' ', c, ' '});
    else
      out.push_back(c);
  return out;
}

std::string join(const std::vector<std::string_view>& words) {
  std::string out;
  for (const std::string_view word : words) {
    if (!out.empty()) out.push_back(' ');
    out.append(word);
  }
  return out;
}

// --- BLEU ----------------------------------------------------------------------------------------

using Counts = std::unordered_map<std::string, std::int64_t>;

Counts ngrams(const std::vector<std::string_view>& words, std::size_t order) {
  Counts counts;
  for (std::size_t i = 0; i + order <= words.size(); ++i)
    ++counts[join({words.begin() + static_cast<std::ptrdiff_t>(i),
                   words.begin() + static_cast<std::ptrdiff_t>(i + order)})];
  return counts;
}

struct BleuStatistics {
  std::array<std::int64_t, kOrders> correct{}, total{};
  std::int64_t hypothesis_length = 0, reference_length = 0;

  void add(const std::string& hypothesis, const std::string& reference) {
    const auto ours = split(hypothesis), theirs = split(reference);
    hypothesis_length += static_cast<std::int64_t>(ours.size());
    reference_length += static_cast<std::int64_t>(theirs.size());
    for (std::size_t n = 0; n < kOrders; ++n) {
      const Counts wanted = ngrams(theirs, n + 1);
      for (const auto& [ngram, count] : ngrams(ours, n + 1)) {
        total[n] += count;
        if (const auto found = wanted.find(ngram); found != wanted.end())
          correct[n] += std::min(count, found->second);
      }
    }
  }
};

double brevity_penalty(const BleuStatistics& s) {
  if (s.hypothesis_length >= s.reference_length) return 1;
  if (s.hypothesis_length == 0) return 0;
  return std::exp(1 - static_cast<double>(s.reference_length) /
                          static_cast<double>(s.hypothesis_length));
}

// Percent. Each order without a match counts as 1 / 2^j matches, j the how-manieth (NIST, "exp").
std::array<double, kOrders> smoothed_precisions(const BleuStatistics& s) {
  std::array<double, kOrders> precisions{};
  double smoothing = 1;
  for (std::size_t n = 0; n < kOrders && s.total[n] > 0; ++n) {
    const auto total = static_cast<double>(s.total[n]);
    if (s.correct[n] > 0) {
      precisions[n] = 100.0 * static_cast<double>(s.correct[n]) / total;
    } else {
      smoothing *= 2;
      precisions[n] = 100.0 / (smoothing * total);
    }
  }
  return precisions;
}

// --- ROUGE-L -------------------------------------------------------------------------------------

// Runs of [a-z0-9] of the lower-cased text; every other letter separates words, as in rouge_score.
std::vector<std::string> rouge_words(const std::string& text) {
  std::vector<std::string> words;
  bool open = false;
  for (const char c : lower(text)) {
    const bool kept = (c >= 'a' && c <= 'z') || is_digit(c);
    if (kept && !open) words.emplace_back();
    if (kept) words.back().push_back(c);
    open = kept;
  }
  return words;
}

std::size_t longest_common_subsequence(const std::vector<std::string>& a,
                                       const std::vector<std::string>& b) {
  std::vector<std::size_t> row(b.size() + 1, 0);  // lengths for the prefix of a seen so far
  for (const std::string& word : a) {
    std::size_t diagonal = 0;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t above = row[j + 1];
      row[j + 1] = word == b[j] ? diagonal + 1 : std::max(above, row[j]);
      diagonal = above;
    }
  }
  return row.back();
}

double rouge_l_f1(const std::string& hypothesis, const std::string& reference) {
  const auto ours = rouge_words(hypothesis), theirs = rouge_words(reference);
  const std::size_t common = longest_common_subsequence(ours, theirs);
  if (common == 0) return 0;
  const double precision = static_cast<double>(common) / static_cast<double>(ours.size());
  const double recall = static_cast<double>(common) / static_cast<double>(theirs.size());
  return 2 * precision * recall / (precision + recall);
}

}  // namespace

std::string tokenize_13a(std::string_view line) {
  std::string text(line);
  replace_all(text, "<skipped>", "");
  replace_all(text, "-\n", "");
  replace_all(text, "\n", " ");
  replace_all(text, "&quot;", "\"");
  replace_all(text, "&amp;", "&");
  replace_all(text, "&lt;", "<");
  replace_all(text, "&gt;", ">");
  text = separate_symbols(" " + text + " ");
  const auto stop_after_other = [](char a, char b) { return !is_digit(a) && is_stop(b); };
  const auto stop_before_other = [](char a, char b) { return is_stop(a) && !is_digit(b); };
  const auto dash_after_digit = [](char a, char b) { return is_digit(a) && b == '-'; };
  text = substitute_pairs(text, stop_after_other, "", " ", " ");
  text = substitute_pairs(text, stop_before_other, " ", " ", "");
  text = substitute_pairs(text, dash_after_digit, "", " ", " ");
  return join(split(text));
}

Bleu bleu(const std::vector<std::string>& hypotheses, const std::vector<std::string>& references,
          bool lowercase) {
  require_pairs("BLEU", hypotheses.size(), references.size());
  const auto prepare = [&](const std::string& text) {
    const std::string cased = lowercase ? lower(text) : text;
    return tokenize_13a(strip_right(cased));
  };
  BleuStatistics statistics;
  for (std::size_t i = 0; i < hypotheses.size(); ++i)
    statistics.add(prepare(hypotheses[i]), prepare(references[i]));

  Bleu out;
  out.hypothesis_length = statistics.hypothesis_length;
  out.reference_length = statistics.reference_length;
  out.brevity_penalty = brevity_penalty(statistics);
  out.signature = std::string("nrefs:1|case:") + (lowercase ? "lc" : "mixed") +
                  "|eff:no|tok:13a|smooth:exp|version:demist-" DEMIST_VERSION;
  // Without any match there is nothing to smooth: the score is 0.
  if (statistics.correct == std::array<std::int64_t, kOrders>{}) return out;
  out.precisions = smoothed_precisions(statistics);
  double log_sum = 0;
  for (const double precision : out.precisions) log_sum += std::log(precision);  // log 0: score 0
  out.score = out.brevity_penalty * std::exp(log_sum / kOrders);
  return out;
}

double rouge_l(const std::vector<std::string>& hypotheses,
               const std::vector<std::string>& references) {
  require_pairs("ROUGE-L", hypotheses.size(), references.size());
  if (hypotheses.empty()) return 0;
  double sum = 0;
  for (std::size_t i = 0; i < hypotheses.size(); ++i)
    sum += rouge_l_f1(hypotheses[i], references[i]);
  return 100 * sum / static_cast<double>(hypotheses.size());
}

}  // namespace demist::evaluate
