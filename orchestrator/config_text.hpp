// Protobuf text files of ours: parsed with errors that name file, line, field and remedy.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <google/protobuf/text_format.h>

#include <string>
#include <vector>

namespace demist::config {

namespace pb = google::protobuf;

// Fills `message`; `locations` (may be null) learns where each field stood. `manual` is the .proto
// file that documents the fields. Throws ConfigError("file:line:column: field: problem; remedy") on
// a syntax error or an unknown field or value.
void parse_text(const std::string& text, const std::string& file, const std::string& manual,
                pb::Message& message, pb::TextFormat::ParseInfoTree* locations);
// Reads fields of `message` from `text`. Returns what is wrong with it, or "".
std::string merge_text(const std::string& text, const std::string& manual, pb::Message& message);

// Names of a message's fields, or of an enumeration's values.
std::vector<std::string> names(const pb::Descriptor* type);
std::vector<std::string> names(const pb::EnumDescriptor* type);

}  // namespace demist::config
