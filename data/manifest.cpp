// SPDX-License-Identifier: Apache-2.0
#include "data/manifest.hpp"

#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "core/error.hpp"
#include "core/seal.hpp"

namespace demist::data {
namespace {

using Json = nlohmann::ordered_json;  // fields keep the order of this file: bytes are the identity

constexpr const char* kFormat = "demist.corpus";
constexpr int kVersion = 1;

constexpr std::uint64_t kMost = std::uint64_t{1} << 50;

struct Damage {
  std::string what;
};

// JSON's other numbers would be converted silently.
std::uint64_t count_of(const Json& json, const char* name) {
  const Json& value = json.at(name);
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > kMost)
    throw Damage{std::string(name) + " is not an integer in [0, " + std::to_string(kMost) + "]"};
  return value.get<std::uint64_t>();
}

// File names need not be UTF-8; JSON must be.
std::string text_of(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

Json json_of(const SkipCounts& skipped) {
  return {{"invalid_utf8", skipped.invalid_utf8},
          {"bad_json", skipped.bad_json},
          {"too_long", skipped.too_long},
          {"empty", skipped.empty}};
}

SkipCounts skips_of(const Json& json) {
  SkipCounts skipped;
  skipped.invalid_utf8 = count_of(json, "invalid_utf8");
  skipped.bad_json = count_of(json, "bad_json");
  if (json.contains("too_long"))
    skipped.too_long = count_of(json, "too_long");  // older ones lack it
  skipped.empty = count_of(json, "empty");
  return skipped;
}

Json json_of(const std::vector<ManifestShard>& shards) {
  Json list = Json::array();
  for (const ManifestShard& shard : shards)
    list.push_back({{"file", shard.file},
                    {"bytes", shard.bytes},
                    {"n_tokens", shard.tokens},
                    {"n_docs", shard.documents},
                    {"hash", shard.hash}});
  return list;
}

std::vector<ManifestShard> shards_of(const Json& list) {
  std::vector<ManifestShard> shards;
  for (const Json& entry : list)
    shards.push_back({.file = entry.at("file").get<std::string>(),
                      .bytes = count_of(entry, "bytes"),
                      .tokens = count_of(entry, "n_tokens"),
                      .documents = count_of(entry, "n_docs"),
                      .hash = entry.at("hash").get<std::string>()});
  return shards;
}

// A name that leads out of the folder must not be followed.
void require_plain_names(const std::vector<ManifestShard>& shards,
                         const std::filesystem::path& path) {
  for (const ManifestShard& shard : shards)
    if (shard.file.empty() || shard.file.front() == '.' ||
        shard.file.find('/') != std::string::npos)
      throw DataError(path.string() + ": '" + shard.file + "' is not a plain file name; delete " +
                      path.parent_path().string() + " and build the corpus again");
}

template <class Result, class Read>
Result parse(const std::string& text, const std::filesystem::path& path, const Read& read) {
  const auto damaged = [&](const std::string& what) {
    return DataError(path.string() + ": damaged: " + what +
                     "; restore it or remove it and build the corpus again");
  };
  try {
    return read(Json::parse(text));
  } catch (const Json::exception& error) {
    throw damaged(error.what());
  } catch (const Damage& damage) {
    throw damaged(damage.what);
  }
}

}  // namespace

std::uint64_t Manifest::tokens() const {
  return std::accumulate(shards.begin(), shards.end(), std::uint64_t{0},
                         [](std::uint64_t sum, const auto& shard) { return sum + shard.tokens; });
}

std::uint64_t Manifest::documents() const {
  return std::accumulate(
      shards.begin(), shards.end(), std::uint64_t{0},
      [](std::uint64_t sum, const auto& shard) { return sum + shard.documents; });
}

std::string to_json(const Manifest& manifest) {
  Json inputs = Json::array();
  for (const ManifestInput& input : manifest.inputs)
    inputs.push_back({{"name", input.name},
                      {"language", input.language},
                      {"format", input.format},
                      {"bytes", input.bytes},
                      {"n_docs", input.documents},
                      {"skipped", json_of(input.skipped)}});
  return sealed(text_of({{"format", kFormat},
                         {"version", kVersion},
                         {"name", manifest.name},
                         {"tokenizer_sha256", manifest.tokenizer_hash},
                         {"vocab_size", manifest.vocab_size},
                         {"languages", manifest.languages},
                         {"n_tokens", manifest.tokens()},
                         {"n_docs", manifest.documents()},
                         {"inputs", inputs},
                         {"shards", json_of(manifest.shards)}},
                        1));
}

Manifest parse_manifest(const std::string& text, const std::filesystem::path& path) {
  const std::optional<std::string> object = unsealed(text);
  if (!object)
    throw DataError(path.string() +
                    ": damaged, or of a demist that sealed no manifests: its checksum is not that "
                    "of its content; restore it, or delete " +
                    path.parent_path().string() + " and build the corpus again");
  return parse<Manifest>(*object, path, [&](const Json& json) {
    if (json.at("format") != kFormat || json.at("version") != kVersion)
      throw DataError(
          path.string() +
          ": not a demist.corpus manifest of version 1; read it with the demist that made it");
    Manifest manifest;
    manifest.name = json.at("name").get<std::string>();
    manifest.tokenizer_hash = json.at("tokenizer_sha256").get<std::string>();
    manifest.vocab_size = static_cast<std::int64_t>(count_of(json, "vocab_size"));
    manifest.languages = json.at("languages").get<std::vector<std::string>>();
    for (const Json& entry : json.at("inputs"))
      manifest.inputs.push_back({.name = entry.at("name").get<std::string>(),
                                 .language = entry.at("language").get<std::string>(),
                                 .format = entry.at("format").get<std::string>(),
                                 .bytes = count_of(entry, "bytes"),
                                 .documents = count_of(entry, "n_docs"),
                                 .skipped = skips_of(entry.at("skipped"))});
    manifest.shards = shards_of(json.at("shards"));
    require_plain_names(manifest.shards, path);
    if (count_of(json, "n_tokens") != manifest.tokens() ||
        count_of(json, "n_docs") != manifest.documents())
      throw DataError(path.string() + ": its totals differ from the sums over its shards; delete " +
                      path.parent_path().string() + " and build the corpus again");
    return manifest;
  });
}

std::string to_json(const RangeResult& result) {
  return text_of({{"build_id", result.build_id},
                  {"range", result.range},
                  {"input", result.input},
                  {"input_bytes", result.input_bytes},
                  {"skipped", json_of(result.skipped)},
                  {"first_skipped", result.skipped.first},
                  {"shards", json_of(result.shards)}},
                 -1) +
         "\n";
}

RangeResult parse_range_result(const std::string& text, const std::filesystem::path& path) {
  return parse<RangeResult>(text, path, [&](const Json& json) {
    RangeResult result;
    result.build_id = json.at("build_id").get<std::string>();
    result.range = count_of(json, "range");
    result.input = count_of(json, "input");
    result.input_bytes = count_of(json, "input_bytes");
    result.skipped = skips_of(json.at("skipped"));
    result.skipped.first = json.at("first_skipped").get<std::string>();
    result.shards = shards_of(json.at("shards"));
    require_plain_names(result.shards, path);
    return result;
  });
}

}  // namespace demist::data
