// The recipe while it is still a protobuf message; only orchestrator/config*.cpp include this.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "configs/recipe.pb.h"
#include "orchestrator/config.hpp"
#include "orchestrator/config_text.hpp"

namespace demist::config {

// A path names a field: "model.hidden", "stages.pretrain.batch.max_tokens", "tasks.0.file".
struct Place {
  pb::Message* parent = nullptr;  // message that holds the field
  const pb::FieldDescriptor* field = nullptr;
  int index = -1;  // element of a repeated field, -1: the field itself
  const pb::TextFormat::ParseInfoTree* locations = nullptr;  // of parent; null: not in the file
};

// The message, where each field stood in the file, and the way to complain about one.
class ParsedRecipe {
 public:
  // Throws ConfigError on a syntax error or an unknown field or value.
  ParsedRecipe(const std::string& text, std::string file);

  recipe::Recipe& message() { return message_; }
  const std::string& file() const { return file_; }

  // "path=value". Elements of a repeated scalar are separated by commas. Throws ConfigError.
  void set(const std::string& assignment);

  // Throws ConfigError("file:line:column: path: problem; remedy"), pointing at the field, or at the
  // nearest message around it that stands in the file, or at the override that set it.
  [[noreturn]] void fail(const std::string& path, const std::string& problem,
                         const std::string& remedy);
  void require(bool condition, const std::string& path, const std::string& problem,
               const std::string& remedy) {
    if (!condition) fail(path, problem, remedy);
  }

 private:
  Place resolve(std::string_view path);
  std::string where(const std::string& path);

  std::string file_;
  recipe::Recipe message_;
  pb::TextFormat::ParseInfoTree locations_;
  std::set<std::string> overridden_;
};

// Fills every unset optional field that its kind of stage uses: the one place of default values.
void apply_defaults(recipe::Recipe& recipe);

// Impossible values and combinations. REQUIRES: defaults not yet applied (presence is looked at).
void check_presence(ParsedRecipe& recipe);
// Fields that nothing would read, for what stands in another. REQUIRES: as check_presence.
void check_unread(ParsedRecipe& recipe);
// Values of the tokenizer, the corpora and the tasks. REQUIRES: defaults applied.
void check_inputs(ParsedRecipe& recipe);
// REQUIRES: defaults applied.
void check_values(ParsedRecipe& recipe, RanksOf ranks);
// Of parallel.attention: what is known before there is a device. The rest is said when a stage
// begins. REQUIRES: the model's and the stages' values are checked.
void check_attention(ParsedRecipe& recipe);

// Text of the settings that change results; of one stage (its name) or of the whole run.
std::string result_text(const recipe::Recipe& recipe, const std::string& stage = "");
// Earlier stages whose results `stage` uses, in order.
std::vector<std::string> dependencies(const recipe::Recipe& recipe, const recipe::Stage& stage);

}  // namespace demist::config
