// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/config_recipe.hpp"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/stubs/strutil.h>

#include <algorithm>
#include <charconv>
#include <regex>

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

// Protobuf's message in our words, with the nearest known name as the remedy.
std::string explain(const std::string& text) {
  static const std::regex unknown_field(
      "Message type \"([^\"]+)\" has no field named \"([^\"]+)\"");
  static const std::regex unknown_value(
      "Unknown enumeration value of \"([^\"]+)\" for field "
      "\"([^\"]+)\"");
  std::smatch match;
  if (std::regex_search(text, match, unknown_field)) {
    const pb::Descriptor* type = find_message(match[1]);
    const std::string name = match[2];
    std::string remedy = did_you_mean(name, names(type));
    if (remedy.empty()) remedy = "; " + type->name() + " has: " + join(names(type), ", ");
    return name + ": unknown field of " + type->name() + remedy;
  }
  if (std::regex_search(text, match, unknown_value)) {
    const auto* type = find_enum_of_field(recipe::Recipe::descriptor(), match[2]);
    std::string known = type == nullptr ? "" : "; use one of " + join(names(type), ", ");
    return match[2].str() + ": unknown value \"" + match[1].str() + "\"" + known;
  }
  return text + "; see configs/recipe.proto for the fields";
}

std::vector<std::string> element_names(const pb::Message& parent,
                                       const pb::FieldDescriptor* field) {
  const pb::Reflection* reflection = parent.GetReflection();
  const pb::FieldDescriptor* name = field->message_type()->FindFieldByName("name");
  std::vector<std::string> found;
  for (int i = 0; i < reflection->FieldSize(parent, field); ++i) {
    const pb::Message& element = reflection->GetRepeatedMessage(parent, field, i);
    found.push_back(name == nullptr ? "" : element.GetReflection()->GetString(element, name));
  }
  return found;
}

// The element that `selector` names by its `name` field or its index; -1: none.
int find_element(const pb::Message& parent, const pb::FieldDescriptor* field,
                 std::string_view selector) {
  const auto known = element_names(parent, field);
  const auto named = std::find(known.begin(), known.end(), selector);
  if (named != known.end()) return static_cast<int>(named - known.begin());
  int index = -1;
  const auto result = std::from_chars(selector.data(), selector.data() + selector.size(), index);
  const bool is_index = result.ec == std::errc() && result.ptr == selector.data() + selector.size();
  return is_index && index >= 0 && index < static_cast<int>(known.size()) ? index : -1;
}

ConfigError no_element(const std::string& word, const std::string& list,
                       const std::vector<std::string>& known) {
  return ConfigError(list + " has no element '" + word + "'; it has: " + join(known, ", ") +
                     did_you_mean(word, known));
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  for (std::size_t end; (end = text.find(separator, begin)) != std::string_view::npos;
       begin = end + 1)
    parts.emplace_back(text.substr(begin, end - begin));
  parts.emplace_back(text.substr(begin));
  return parts;
}

// One value as protobuf text: strings may come without quotes.
std::string as_text(const pb::FieldDescriptor* field, const std::string& value) {
  const bool quoted = value.size() >= 2 && value.front() == '"' && value.back() == '"';
  if (field->cpp_type() != pb::FieldDescriptor::CPPTYPE_STRING || quoted) return value;
  return '"' + pb::CEscape(value) + '"';
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

ParsedRecipe::ParsedRecipe(const std::string& text, std::string file) : file_(std::move(file)) {
  FirstError error;
  pb::TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  parser.WriteLocationsTo(&locations_);
  if (!parser.ParseFromString(text, &message_))
    throw ConfigError(file_ + ":" + error.at + ": " + explain(error.text));
}

Place ParsedRecipe::resolve(std::string_view path) {
  Place place{&message_, nullptr, -1, &locations_};
  for (const std::string& word : split(path, '.')) {
    if (place.field != nullptr) {  // go down into what the previous words named
      const bool list = place.field->is_repeated();
      if (place.field->message_type() == nullptr)
        throw ConfigError(place.field->name() + " is a value, not a group of fields");
      if (list && place.index < 0) {
        place.index = find_element(*place.parent, place.field, word);
        if (place.index < 0)
          throw no_element(word, place.field->name(), element_names(*place.parent, place.field));
        continue;
      }
      const pb::Reflection* reflection = place.parent->GetReflection();
      if (place.locations != nullptr)
        place.locations = place.locations->GetTreeForNested(place.field, list ? place.index : -1);
      place.parent =
          list ? reflection->MutableRepeatedMessage(place.parent, place.field, place.index)
               : reflection->MutableMessage(place.parent, place.field);
    }
    const pb::Descriptor* type = place.parent->GetDescriptor();
    place.field = type->FindFieldByName(word);
    place.index = -1;
    if (place.field == nullptr)
      throw ConfigError(type->name() + " has no field '" + word + "'" +
                        did_you_mean(word, names(type)));
  }
  return place;
}

void ParsedRecipe::set(const std::string& assignment) {
  const std::size_t equals = assignment.find('=');
  const std::string path = assignment.substr(0, equals);
  const std::string prefix = "--set " + assignment + ": ";
  if (equals == std::string::npos || path.empty())
    throw ConfigError(prefix + "expected path=value, as in --set model.hidden=64");
  const std::string value = assignment.substr(equals + 1);
  Place place;
  try {
    place = resolve(path);
  } catch (const ConfigError& error) {
    throw ConfigError(prefix + error.what());
  }
  if (place.field->message_type() != nullptr)
    throw ConfigError(prefix + path + " is a group of fields; set one of: " +
                      join(names(place.field->message_type()), ", "));
  place.parent->GetReflection()->ClearField(place.parent, place.field);
  const auto values = place.field->is_repeated() ? split(value, ',') : std::vector{value};
  std::string text;
  for (const std::string& one : values)
    text += place.field->name() + ": " + as_text(place.field, one) + "\n";
  FirstError error;
  pb::TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  if (!parser.MergeFromString(text, place.parent)) throw ConfigError(prefix + explain(error.text));
  overridden_.insert(path);
}

std::string ParsedRecipe::where(const std::string& path) {
  if (overridden_.contains(path)) return file_ + " (--set " + path + ")";
  // From the field outwards, the first that stands in the file.
  for (std::string outer = path; !outer.empty();) {
    Place place;
    try {
      place = resolve(outer);
    } catch (const ConfigError&) {
      // An element whose name has a dot in it.
    }
    if (place.locations != nullptr) {
      const auto at = place.locations->GetLocation(
          place.field, place.field->is_repeated() ? std::max(place.index, 0) : -1);
      if (at.line >= 0)
        return file_ + ":" + std::to_string(at.line + 1) + ":" + std::to_string(at.column + 1);
    }
    const std::size_t dot = outer.rfind('.');
    outer = dot == std::string::npos ? "" : outer.substr(0, dot);
  }
  return file_;
}

void ParsedRecipe::fail(const std::string& path, const std::string& problem,
                        const std::string& remedy) {
  throw ConfigError(where(path) + ": " + path + ": " + problem + "; " + remedy);
}

}  // namespace demist::config
