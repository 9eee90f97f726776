// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/config_recipe.hpp"

#include <google/protobuf/stubs/strutil.h>

#include <algorithm>
#include <charconv>
#include <memory>

#include "core/error.hpp"
#include "orchestrator/nearest.hpp"

namespace demist::config {
namespace {

constexpr const char* kManual = "configs/recipe.proto";

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

// A value is spliced into protobuf text: "64 heads: 2" would set another field too.
void require_only(const pb::Message& given, const pb::FieldDescriptor* field,
                  const std::string& prefix) {
  std::vector<const pb::FieldDescriptor*> present;
  given.GetReflection()->ListFields(given, &present);
  for (const pb::FieldDescriptor* other : present)
    if (other != field)
      throw ConfigError(prefix + "sets " + other->name() + " too; give it a --set of its own");
}

}  // namespace

ParsedRecipe::ParsedRecipe(const std::string& text, std::string file) : file_(std::move(file)) {
  parse_text(text, file_, kManual, message_, &locations_);
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
  const std::unique_ptr<pb::Message> given(place.parent->New());
  const std::string problem = merge_text(text, kManual, *given);
  if (!problem.empty()) throw ConfigError(prefix + problem);
  require_only(*given, place.field, prefix);
  place.parent->MergeFrom(*given);
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
