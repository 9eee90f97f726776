// What a recipe reads: its tokenizer, corpora and tasks.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "data/corpus.hpp"
#include "data/task_rows.hpp"
#include "orchestrator/config_ranges.hpp"

namespace demist::config {
namespace {

using recipe::Recipe;
using recipe::Stage;

bool has(const Recipe& recipe, Stage::Kind kind) {
  return std::ranges::any_of(recipe.stages(),
                             [&](const Stage& stage) { return stage.kind() == kind; });
}

void check_tokenizer(ParsedRecipe& recipe) {
  const Recipe& r = recipe.message();
  const recipe::Tokenizer& t = r.tokenizer();
  const bool trains = has(r, Stage::TOKENIZER), exists = !t.model().empty();
  recipe.require(!(trains && exists), "tokenizer.model", "is given, and a stage trains another",
                 "remove the TOKENIZER stage or this field");
  recipe.require(!trains || !t.inputs().empty(), "tokenizer.inputs", "is missing",
                 "name the text files to train the tokenizer on");
  recipe.require(trains || exists || !(has(r, Stage::PRETRAIN) || has(r, Stage::ADAPT)),
                 "tokenizer", "there is none", "add a TOKENIZER stage, or set tokenizer.model");
  if (exists) return;
  check_range(recipe, "tokenizer.pieces", t.pieces(), {10, 16e6, "10 or greater"});
  check_range(recipe, "tokenizer.character_coverage", t.character_coverage(),
              {0.98, 1, "between 0.98 and 1"});
  check_range(recipe, "tokenizer.max_bytes", static_cast<double>(t.max_bytes()), kNotNegative);
}

void check_corpus(ParsedRecipe& recipe, const recipe::Corpus& corpus) {
  const std::string path = "corpora." + corpus.name();
  recipe.require(corpus.folder().empty() != corpus.inputs().empty(), path,
                 "needs inputs or a folder, and not both", "give one of them");
  if (!corpus.folder().empty()) return;
  recipe.require(has(recipe.message(), Stage::CORPUS), path, "no stage builds it",
                 "add a stage of kind CORPUS, or set folder");
  check_range(recipe, path + ".range_bytes", static_cast<double>(corpus.range_bytes()),
              {4096, 1e15, "4096 or greater"});
  check_range(recipe, path + ".max_invalid", corpus.max_invalid(), kFraction);
  for (int i = 0; i < corpus.inputs_size(); ++i) {
    const std::string input = path + ".inputs." + std::to_string(i);
    const std::string& tag = corpus.inputs(i).language();
    recipe.require(!corpus.inputs(i).path().empty(), input + ".path", "is missing", "name a file");
    recipe.require(data::is_language_tag(tag), input + ".language",
                   "\"" + tag + "\" is not a language tag",
                   "use letters, digits and '-', as in en or pt-BR");
  }
}

// All of a task's columns are numbers, or all are names.
void check_columns(ParsedRecipe& recipe, const recipe::Task& task) {
  const bool tsv = data::is_column_number(task.prompt());
  for (const auto& [field, value] :
       {std::pair{"response", task.response()}, {"split_field", task.split_field()}})
    recipe.require(
        value.empty() || data::is_column_number(value) == tsv, "tasks." + task.name() + "." + field,
        "is \"" + value + "\", and prompt is \"" + task.prompt() + "\"",
        "a TSV file has column numbers, from 0, and a JSONL file has names: use one kind");
}

void check_task(ParsedRecipe& recipe, const recipe::Task& task) {
  const std::string path = "tasks." + task.name();
  recipe.require(!task.file().empty(), path + ".file", "is missing", "name a TSV or JSONL file");
  recipe.require(task.template_().find("{prompt}") != std::string::npos, path + ".template",
                 "does not contain {prompt}", "say where the prompt's text goes");
  check_columns(recipe, task);
  check_range(recipe, path + ".ratio", task.ratio(), kPositive);
  check_range(recipe, path + ".limit", static_cast<double>(task.limit()), kNotNegative);
  check_range(recipe, path + ".max_length", task.max_length(), {4, 1e9, "4 or greater"});
}

}  // namespace

void check_unread(ParsedRecipe& recipe) {
  const Recipe r = recipe.message();  // pointing at a field may add an empty message around it
  const auto refuse = [&](bool given, const std::string& path, const std::string& why) {
    recipe.require(!given, path, "would not be read: " + why, "remove one of them");
  };
  const recipe::Tokenizer& t = r.tokenizer();
  const bool made = t.model().empty();
  const std::string existing = "tokenizer.model names a finished one";
  refuse(!made && !t.inputs().empty(), "tokenizer.inputs", existing);
  refuse(!made && t.has_pieces(), "tokenizer.pieces", existing);
  refuse(!made && t.has_character_coverage(), "tokenizer.character_coverage", existing);
  refuse(!made && t.has_max_bytes(), "tokenizer.max_bytes", existing);
  for (const recipe::Corpus& c : r.corpora()) {
    const std::string path = "corpora." + c.name() + ".", built = "folder names a finished corpus";
    refuse(!c.folder().empty() && c.has_range_bytes(), path + "range_bytes", built);
    refuse(!c.folder().empty() && c.has_max_invalid(), path + "max_invalid", built);
    for (int i = 0; i < c.inputs_size(); ++i)
      refuse(c.inputs(i).format() == recipe::Corpus::Input::TEXT && c.inputs(i).has_json_field(),
             path + "inputs." + std::to_string(i) + ".json_field", "format is TEXT");
  }
  for (const Stage& stage : r.stages())
    recipe.require(
        stage.kind() != Stage::PRETRAIN || !stage.has_evaluate() || !stage.held_out().empty(),
        "stages." + stage.name() + ".evaluate", "there is nothing to measure",
        "name a corpus in held_out, or remove it");
}

void check_inputs(ParsedRecipe& recipe) {
  const Recipe r = recipe.message();
  check_tokenizer(recipe);
  for (const recipe::Corpus& corpus : r.corpora()) check_corpus(recipe, corpus);
  for (const recipe::Task& task : r.tasks()) check_task(recipe, task);
}

}  // namespace demist::config
