// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <set>

#include "orchestrator/config_recipe.hpp"

namespace demist::config {
namespace {

using recipe::Recipe;
using recipe::Stage;

template <class List, class Keep>
void filter(List* list, const Keep& keep) {
  for (int i = list->size() - 1; i >= 0; --i)
    if (!keep(list->Get(i))) list->DeleteSubrange(i, 1);
}

// Names of `stage` and of all that its result depends on.
std::set<std::string> ancestors(const Recipe& recipe, const Stage& stage) {
  std::set<std::string> kept{stage.name()};
  bool on_corpus = stage.kind() == Stage::CORPUS, reached = false;
  for (int i = recipe.stages_size() - 1; i >= 0; --i) {  // from the stage back to the first
    const Stage& other = recipe.stages(i);
    reached = reached || other.name() == stage.name();
    if (!reached) continue;
    const bool trains =
        std::any_of(recipe.stages().begin(), recipe.stages().end(), [&](const Stage& later) {
          return kept.contains(later.name()) && later.start_from() == other.name();
        });
    if (trains) kept.insert(other.name());
    if (kept.contains(other.name()) && other.kind() == Stage::PRETRAIN) on_corpus = true;
    const bool makes_input = other.kind() == Stage::PREPARE ||
                             (other.kind() == Stage::TOKENIZER && stage.kind() != Stage::PREPARE) ||
                             (other.kind() == Stage::CORPUS && on_corpus);
    if (makes_input) kept.insert(other.name());
  }
  return kept;
}

// Leaves in `recipe` what the result of one stage depends on.
void keep_stage(Recipe& recipe, const std::string& name) {
  const auto found = std::find_if(recipe.stages().begin(), recipe.stages().end(),
                                  [&](const Stage& stage) { return stage.name() == name; });
  const Stage stage = *found;
  const std::set<std::string> kept = ancestors(recipe, stage);
  filter(recipe.mutable_stages(), [&](const Stage& s) { return kept.contains(s.name()); });
  const bool builds = stage.kind() == Stage::CORPUS;
  std::set<std::string> used;  // corpora and tasks
  for (const Stage& s : recipe.stages()) {
    used.insert({s.corpus(), s.held_out()});
    used.insert(s.tasks().begin(), s.tasks().end());
  }
  filter(recipe.mutable_corpora(),
         [&](const recipe::Corpus& corpus) { return builds || used.contains(corpus.name()); });
  filter(recipe.mutable_tasks(),
         [&](const recipe::Task& task) { return used.contains(task.name()); });
  if (stage.kind() == Stage::PREPARE) recipe.clear_tokenizer();
  const bool has_model = stage.kind() == Stage::PRETRAIN || stage.kind() == Stage::ADAPT ||
                         stage.kind() == Stage::SCORE;
  if (has_model) return;
  recipe.clear_model();
  recipe.clear_seed();
  recipe.clear_precision();
  recipe.clear_reduction();
}

}  // namespace

std::vector<std::string> dependencies(const Recipe& recipe, const Stage& stage) {
  const std::set<std::string> kept = ancestors(recipe, stage);
  std::vector<std::string> earlier;
  for (const Stage& other : recipe.stages()) {
    if (other.name() == stage.name()) break;
    if (kept.contains(other.name())) earlier.push_back(other.name());
  }
  return earlier;
}

std::string result_text(const Recipe& whole, const std::string& stage) {
  Recipe recipe = whole;
  recipe.clear_name();
  recipe.clear_run_dir();
  recipe.clear_parallel();
  recipe.clear_checkpoint();
  recipe.clear_recovery();
  for (Stage& s : *recipe.mutable_stages()) {
    s.clear_samples();
    if (s.has_decoding()) s.mutable_decoding()->clear_max_tokens();
    if (s.has_evaluate()) s.mutable_evaluate()->clear_every_steps();
  }
  if (!stage.empty()) keep_stage(recipe, stage);
  std::string text;
  pb::TextFormat::Printer printer;
  printer.SetUseUtf8StringEscaping(true);
  printer.PrintToString(recipe, &text);
  return text;
}

}  // namespace demist::config
