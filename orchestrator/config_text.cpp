// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/config_text.hpp"

#include <google/protobuf/io/tokenizer.h>

#include <optional>
#include <utility>

#include "core/error.hpp"
#include "orchestrator/nearest.hpp"

namespace demist::config {
namespace {

// Keeps the first error; protobuf's parser stops there.
class FirstError : public pb::io::ErrorCollector {
 public:
  void AddError(int line, pb::io::ColumnNumber column, const std::string& message) override {
    if (text.empty()) {
      at = std::to_string(line + 1) + ":" + std::to_string(column + 1);
      text = message;
    }
  }
  std::string at, text;
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

// Protobuf's message in our words, with the nearest known name as the remedy.
std::string explain(const std::string& text, const std::string& manual,
                    const pb::Descriptor* root) {
  if (const auto words = quoted(text, "Message type \"", "\" has no field named \"")) {
    const auto& [type_name, name] = *words;
    const pb::Descriptor* type = find_message(type_name);
    std::string remedy = did_you_mean(name, names(type));
    if (remedy.empty()) remedy = "; " + type->name() + " has: " + join(names(type), ", ");
    return name + ": unknown field of " + type->name() + remedy;
  }
  if (const auto words = quoted(text, "Unknown enumeration value of \"", "\" for field \"")) {
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
  if (!parser.ParseFromString(text, &message))
    throw ConfigError(file + ":" + error.at + ": " +
                      explain(error.text, manual, message.GetDescriptor()));
}

std::string merge_text(const std::string& text, const std::string& manual, pb::Message& message) {
  FirstError error;
  pb::TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  if (parser.MergeFromString(text, &message)) return "";
  return explain(error.text, manual, message.GetDescriptor());
}

}  // namespace demist::config
