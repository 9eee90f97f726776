// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/summary.hpp"

#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.hpp"
#include "core/file.hpp"
#include "orchestrator/format.hpp"
#include "orchestrator/progress.hpp"

namespace demist {
namespace {

using nlohmann::ordered_json;

std::string loss_text(const std::optional<double>& loss) {
  return loss ? print("%.4f", *loss) : "-";
}

std::string score_text(const Score& score) {
  std::string text = print("%s %.2f against %.2f of the baseline (%s), %lld examples",
                           score.metric.c_str(), score.score, score.baseline,
                           score.baseline_name.c_str(), static_cast<long long>(score.examples));
  if (score.left_out > 0)
    text += print("; %lld left out (malformed, or over %d tokens)",
                  static_cast<long long>(score.left_out), score.max_length);
  return text;
}

// At most `width` bytes on one line, cut at a character's start.
std::string shorten(const std::string& text, std::size_t width) {
  if (text.size() <= width) return text;
  std::size_t end = width;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end) + "...";
}

}  // namespace

RunSummary summarize(const RunConfig& run) {
  RunSummary summary{run.name, run.hash, {}};
  for (const StageConfig& stage : run.stages) {
    const auto done = read_done(stage);
    ensure(done.has_value(), "a run is summarized before all its stages are done");
    summary.stages.emplace_back(stage.name, *done);
  }
  return summary;
}

std::string to_json(const RunSummary& summary) {
  ordered_json json{{"name", summary.name}, {"recipe_hash", summary.recipe_hash}};
  ordered_json held_out = ordered_json::object(), seconds = ordered_json::object(),
               scores = ordered_json::object();
  double total = 0;
  for (const auto& [name, state] : summary.stages) {
    seconds[name] = state.seconds;
    total += state.seconds;
    if (state.held_out_before) held_out[name]["before"] = *state.held_out_before;
    if (state.held_out_after) held_out[name]["after"] = *state.held_out_after;
    if (!state.score) continue;
    json["metric"] = state.score->metric;
    json["score"] = state.score->score;
    json["score_baseline"] = state.score->baseline;
    json["baseline"] = state.score->baseline_name;
    scores[name] = {
        {"metric", state.score->metric},           {"score", state.score->score},
        {"score_baseline", state.score->baseline}, {"examples", state.score->examples},
        {"left_out", state.score->left_out},       {"max_length", state.score->max_length}};
  }
  json["scores"] = scores;
  json["held_out"] = held_out;
  json["seconds"] = seconds;
  json["seconds_total"] = total;
  return json.dump(1);
}

std::string format_table(const RunSummary& summary) {
  std::string text =
      print("%-16s %10s %17s %17s\n", "stage", "time", "held-out before", "held-out after");
  for (const auto& [name, state] : summary.stages)
    text +=
        print("%-16s %10s %17s %17s\n", name.c_str(), format_duration(state.seconds).c_str(),
              loss_text(state.held_out_before).c_str(), loss_text(state.held_out_after).c_str());
  for (const auto& [name, state] : summary.stages)
    if (state.score) text += "\n" + name + ": " + score_text(*state.score) + "\n";
  return text;
}

std::string format_samples(const fs::path& samples_jsonl, int count) {
  std::istringstream lines(read_file(samples_jsonl));
  std::string line, text;
  try {
    for (int i = 0; i < count && std::getline(lines, line); ++i) {
      const auto sample = ordered_json::parse(line);
      text += "\nprompt     " + shorten(sample.at("prompt"), 300) + "\nreference  " +
              shorten(sample.at("reference"), 300) + "\noutput     " +
              shorten(sample.at("output"), 300) + "\n";
    }
  } catch (const nlohmann::json::exception& error) {
    throw DataError(samples_jsonl.string() + ": damaged: " + error.what() +
                    "; delete it and use `demist run --redo` to score again");
  }
  return text;
}

}  // namespace demist
