// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/config_text.hpp"

#include <google/protobuf/io/tokenizer.h>

#include <optional>
#include <utility>

#include "core/error.hpp"
#include "orchestrator/nearest.hpp"

namespace demist::config {
namespace {

// As protobuf counts: from 0, and a tab leads to the next multiple of eight.
struct TextPlace {
  int line = 0, column = 0;
  bool operator<(const TextPlace& other) const {
    return line != other.line ? line < other.line : column < other.column;
  }
  void pass(char c) {
    if (c == '\n')
      ++line, column = 0;
    else
      column += c == '\t' ? 8 - column % 8 : 1;
  }
};

// Keeps the first error; protobuf's parser stops there.
class FirstError : public pb::io::ErrorCollector {
 public:
  void AddError(int line, pb::io::ColumnNumber column, const std::string& message) override {
    if (!text.empty()) return;
    at = {line, column};
    text = message;
  }
  TextPlace at;
  std::string text;
};

const pb::Descriptor* find_message(const std::string& full_name) {
  return pb::DescriptorPool::generated_pool()->FindMessageTypeByName(full_name);
}

const pb::EnumDescriptor* find_enum_of_field(const pb::Descriptor* type, const std::string& field) {
  for (int i = 0; i < type->field_count(); ++i) {
    const pb::FieldDescriptor* candidate = type->field(i);
    if (candidate->name() == field && candidate->enum_type() != nullptr)
      return candidate->enum_type();
    if (candidate->message_type() != nullptr)
      if (const auto* found = find_enum_of_field(candidate->message_type(), field)) return found;
  }
  return nullptr;
}

// The two words that protobuf quotes in a message of the form <before>word"<between>word". Not with
// std::regex: it recurses once a character, and a long word would end the program.
std::optional<std::pair<std::string, std::string>> quoted(std::string_view text,
                                                          std::string_view before,
                                                          std::string_view between) {
  const std::size_t at = text.find(before);
  if (at == std::string_view::npos) return std::nullopt;
  const std::size_t first = at + before.size(), middle = text.find(between, first);
  if (middle == std::string_view::npos) return std::nullopt;
  const std::size_t second = middle + between.size();
  return std::pair(std::string(text.substr(first, middle - first)),
                   std::string(text.substr(second, text.find('"', second) - second)));
}

constexpr std::string_view kType = "Message type \"", kNoField = "\" has no field named \"",
                           kValue = "Unknown enumeration value of \"", kField = "\" for field \"";

// The word that protobuf does not know; "": it complains of something else.
std::string unknown_word(std::string_view text) {
  if (const auto words = quoted(text, kType, kNoField)) return words->second;
  if (const auto words = quoted(text, kValue, kField)) return words->first;
  return "";
}

// Protobuf names the place behind an unknown word; this is where the word begins.
TextPlace beginning(const std::string& text, TextPlace behind, const std::string& word) {
  std::size_t end = 0;
  for (TextPlace place; end < text.size() && place < behind; ++end) place.pass(text[end]);
  const std::size_t begin = end < word.size() ? text.npos : text.rfind(word, end - word.size());
  if (begin == text.npos) return behind;
  TextPlace place;
  for (std::size_t at = 0; at < begin; ++at) place.pass(text[at]);
  return place;
}

// Protobuf's message in our words, with the nearest known name as the remedy.
std::string explain(const std::string& text, const std::string& manual,
                    const pb::Descriptor* root) {
  if (const auto words = quoted(text, kType, kNoField)) {
    const auto& [type_name, name] = *words;
    const pb::Descriptor* type = find_message(type_name);
    std::string remedy = did_you_mean(name, names(type));
    if (remedy.empty()) remedy = "; " + type->name() + " has: " + join(names(type), ", ");
    return name + ": unknown field of " + type->name() + remedy;
  }
  if (const auto words = quoted(text, kValue, kField)) {
    const auto& [value, field] = *words;
    const auto* type = find_enum_of_field(root, field);
    std::string known = type == nullptr ? "" : "; use one of " + join(names(type), ", ");
    return field + ": unknown value \"" + value + "\"" + known;
  }
  return text + "; see " + manual + " for the fields";
}

}  // namespace

std::vector<std::string> names(const pb::Descriptor* type) {
  std::vector<std::string> known;
  for (int i = 0; i < type->field_count(); ++i) known.push_back(type->field(i)->name());
  return known;
}

std::vector<std::string> names(const pb::EnumDescriptor* type) {
  std::vector<std::string> known;
  for (int i = 0; i < type->value_count(); ++i)
    if (type->value(i)->name() != "UNSET") known.push_back(type->value(i)->name());
  return known;
}

void parse_text(const std::string& text, const std::string& file, const std::string& manual,
                pb::Message& message, pb::TextFormat::ParseInfoTree* locations) {
  FirstError error;
  pb::TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  if (locations != nullptr) parser.WriteLocationsTo(locations);
  if (parser.ParseFromString(text, &message)) return;
  const std::string word = unknown_word(error.text);
  const TextPlace at = word.empty() ? error.at : beginning(text, error.at, word);
  throw ConfigError(file + ":" + std::to_string(at.line + 1) + ":" + std::to_string(at.column + 1) +
                    ": " + explain(error.text, manual, message.GetDescriptor()));
}

std::string merge_text(const std::string& text, const std::string& manual, pb::Message& message) {
  FirstError error;
  pb::TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  if (parser.MergeFromString(text, &message)) return "";
  return explain(error.text, manual, message.GetDescriptor());
}

}  // namespace demist::config
