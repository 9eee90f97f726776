// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/manifest.hpp"

#include <algorithm>
#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "core/checksum.hpp"
#include "core/error.hpp"
#include "core/parallel_for.hpp"
#include "core/seal.hpp"

namespace demist::checkpoint {
namespace {

using nlohmann::json;

constexpr std::int64_t kMostValues = std::int64_t{1} << 50;

std::string hex(std::uint64_t value) {
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(value));
  return digits;
}

std::uint64_t from_hex(const std::string& text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (error != std::errc() || end != text.data() + text.size() || text.size() != 16)
    throw CheckpointError("'" + text + "' is not a checksum");
  return value;
}

// An integer in [0, most]; JSON's other numbers would be converted silently.
std::int64_t integer(const json& value, std::int64_t most, const char* what) {
  if (!value.is_number_integer() ||
      (value.is_number_unsigned() &&
       value.get<std::uint64_t>() > static_cast<std::uint64_t>(most)) ||
      value.get<std::int64_t>() < 0 || value.get<std::int64_t>() > most)
    throw CheckpointError(std::string(what) + " " +
                          // Only a number is sure to be short: dump() of nested lists recurses.
                          (value.is_number() ? value.dump() : value.type_name()) +
                          " is not an integer in [0, " + std::to_string(most) + "]");
  return value.get<std::int64_t>();
}

Kind kind_from(const std::string& name) {
  for (const Kind kind : kKinds)
    if (name == name_of(kind)) return kind;
  throw CheckpointError("unknown kind '" + name + "'");
}

json to_json(const Block& block) {
  json stripes = json::array(), checksums = json::array();
  for (const Stripe& s : block.stripes) stripes.push_back({s.start, s.count, s.stride, s.repeat});
  for (const std::uint64_t checksum : block.checksums) checksums.push_back(hex(checksum));
  return {{"file", block.file},          {"tensor", block.tensor}, {"kind", name_of(block.kind)},
          {"offset", block.offset},      {"count", block.count},   {"stripes", std::move(stripes)},
          {"xxh3", std::move(checksums)}};
}

// Reads types and ranges only; check_block() sees the tables.
Block block_from(const json& value) {
  Block block;
  block.file = static_cast<std::size_t>(integer(value.at("file"), kMostValues, "file"));
  block.tensor = static_cast<std::size_t>(integer(value.at("tensor"), kMostValues, "tensor"));
  block.kind = kind_from(value.at("kind"));
  block.offset = static_cast<std::uint64_t>(integer(value.at("offset"), kMostValues, "offset"));
  block.count = integer(value.at("count"), kMostValues, "count");
  for (const json& stripe : value.at("stripes")) {
    if (!stripe.is_array() || stripe.size() != 4)
      throw CheckpointError("a stripe is [start, count, stride, repeat]");
    const auto field = [&](std::size_t i) { return integer(stripe[i], kMostValues, "stripe"); };
    block.stripes.push_back({field(0), field(1), field(2), field(3)});
  }
  for (const json& checksum : value.at("xxh3"))
    block.checksums.push_back(from_hex(checksum.get<std::string>()));
  return block;
}

void check_block(const Block& block, const Manifest& manifest) {
  if (block.tensor >= manifest.tensors.size() || block.file >= manifest.files.size())
    throw CheckpointError("a block refers to a tensor or file that is not listed");
  const LogicalTensor& tensor = manifest.tensors[block.tensor];
  const std::string what = "tensor '" + tensor.name + "' (" + name_of(block.kind) + ")";
  std::int64_t values = 0;
  for (const Stripe& stripe : block.stripes) {
    // After this a stripe's size is at most the tensor's; stop before a sum of many can overflow.
    if (!stripe.valid(tensor.size()) || (values += stripe.size()) > tensor.size())
      throw CheckpointError(what + ": a stripe leaves the tensor's " +
                            std::to_string(tensor.size()) + " elements");
  }
  const std::uint64_t bytes = manifest.files[block.file].bytes;
  if (block.count < 1 || values != block.count ||
      static_cast<std::int64_t>(block.checksums.size()) != div_ceil(block.count, kChunk))
    throw CheckpointError(what + ": stripes, count and checksums disagree");
  if (block.offset > bytes ||
      static_cast<std::uint64_t>(block.count) > (bytes - block.offset) / sizeof(float))
    throw CheckpointError(what + ": block ends outside " + manifest.files[block.file].name);
}

LogicalTensor tensor_from(const json& value) {
  LogicalTensor tensor;
  tensor.name = value.at("name");
  tensor.rows = integer(value.at("rows"), kMostValues, "rows");
  tensor.cols = integer(value.at("cols"), kMostValues, "cols");
  if (tensor.cols > 0 && tensor.rows > kMostValues / tensor.cols)
    throw CheckpointError("tensor '" + tensor.name + "' is too large");
  return tensor;
}

StoredFile file_from(const json& value) {
  StoredFile file;
  file.name = value.at("name");
  file.bytes = static_cast<std::uint64_t>(
      integer(value.at("bytes"), std::numeric_limits<std::int64_t>::max(), "file size"));
  // A plain base name: the manifest must not reach outside its own directory.
  if (file.name.empty() || file.name.front() == '.' ||
      file.name.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos)
    throw CheckpointError("file name '" + file.name + "' is not a plain name");
  return file;
}

json to_json(const Meta& meta) {
  json value = {{"step", meta.step},
                {"stage", meta.stage},
                {"model", meta.model_json},
                {"recipe_hash", meta.recipe_hash},
                {"tokenizer_hash", meta.tokenizer_hash},
                {"data_hash", meta.data_hash},
                {"state", meta.state_json}};
  if (meta.held_out_loss) value["held_out_loss"] = *meta.held_out_loss;
  return value;
}

Meta meta_from(const json& value) {
  Meta meta;
  meta.step = integer(value.at("step"), kMostValues, "step");
  meta.stage = value.at("stage");
  meta.model_json = value.at("model");
  meta.recipe_hash = value.at("recipe_hash");
  meta.tokenizer_hash = value.at("tokenizer_hash");
  meta.data_hash = value.at("data_hash");
  meta.state_json = value.at("state");
  if (value.contains("held_out_loss")) meta.held_out_loss = value.at("held_out_loss").get<double>();
  return meta;
}

Manifest manifest_from(const json& value) {
  const std::string format = value.at("format");
  if (format != kFormat)
    throw CheckpointError("format '" + format + "' is not '" + kFormat +
                          "'; convert it with the demist that wrote it");
  Manifest manifest;
  manifest.meta = meta_from(value.at("meta"));
  std::set<std::string> names;
  for (const json& item : value.at("tensors")) {
    manifest.tensors.push_back(tensor_from(item));
    if (!names.insert(manifest.tensors.back().name).second)
      throw CheckpointError("tensor '" + manifest.tensors.back().name + "' is listed twice");
  }
  for (const json& item : value.at("files")) manifest.files.push_back(file_from(item));
  for (const json& item : value.at("blocks")) {
    const Block& block = manifest.blocks.emplace_back(block_from(item));
    check_block(block, manifest);
    manifest.files[block.file].values += block.count;
    manifest.files[block.file].datasets += 1;
  }
  return manifest;
}

// Says where the text of an error stood.
template <class Read>
auto errors_from(const std::string& where, const Read& read) {
  try {
    return read();
  } catch (const json::exception& error) {
    throw CheckpointError(where + ": " + error.what());
  } catch (const CheckpointError& error) {
    throw CheckpointError(where + ": " + error.what());
  }
}

}  // namespace

const char* name_of(Kind kind) {
  switch (kind) {
    case Kind::parameter:
      return "parameter";
    case Kind::adam_m:
      return "adam_m";
    case Kind::adam_v:
      return "adam_v";
  }
  throw InternalError("checkpoint: unknown kind");
}

std::string to_text(const Manifest& manifest) {
  json tensors = json::array(), files = json::array(), blocks = json::array();
  for (const LogicalTensor& t : manifest.tensors)
    tensors.push_back({{"name", t.name}, {"rows", t.rows}, {"cols", t.cols}});
  for (const StoredFile& f : manifest.files)
    files.push_back({{"name", f.name}, {"bytes", f.bytes}});
  for (const Block& block : manifest.blocks) blocks.push_back(to_json(block));
  const json value = {{"format", kFormat},
                      {"meta", to_json(manifest.meta)},
                      {"tensors", std::move(tensors)},
                      {"files", std::move(files)},
                      {"blocks", std::move(blocks)}};
  return sealed(value.dump());
}

Manifest parse_manifest(const std::string& text, const std::string& where) {
  return errors_from(where, [&] {
    const std::optional<std::string> object = unsealed(text);
    if (!object) throw CheckpointError("damaged: its checksum differs from its content");
    return manifest_from(json::parse(*object));
  });
}

std::string to_text(const Part& part) {
  if (part.blocks.empty()) return {};
  json blocks = json::array();
  for (const Block& block : part.blocks) blocks.push_back(to_json(block));
  return json{{"name", part.file.name}, {"bytes", part.file.bytes}, {"blocks", std::move(blocks)}}
      .dump();
}

Part parse_part(const std::string& text) {
  if (text.empty()) return {};
  return errors_from("a rank's part of a checkpoint", [&] {
    const json value = json::parse(text);
    Part part{.file = file_from(value), .blocks = {}};
    for (const json& block : value.at("blocks")) part.blocks.push_back(block_from(block));
    return part;
  });
}

void check_complete(const Manifest& manifest, const std::string& where) {
  const std::size_t kinds = std::size(kKinds);
  std::vector<std::vector<Run>> runs(manifest.tensors.size() * kinds);
  std::vector<bool> present(kinds, false);
  for (const Block& block : manifest.blocks) {
    const auto kind = static_cast<std::size_t>(block.kind);
    present[kind] = true;
    for (const Stripe& stripe : block.stripes)
      append_runs(stripe, runs[block.tensor * kinds + kind]);
  }
  for (std::size_t t = 0; t < manifest.tensors.size(); ++t)
    for (const Kind kind : kKinds) {
      if (!present[static_cast<std::size_t>(kind)]) continue;
      const LogicalTensor& tensor = manifest.tensors[t];
      check_tiling(runs[t * kinds + static_cast<std::size_t>(kind)], tensor.size(),
                   where + ": tensor '" + tensor.name + "' (" + name_of(kind) + ")");
    }
}

std::string dataset_name(const LogicalTensor& tensor, Kind kind) {
  return "/t/" + tensor.name + "/" + name_of(kind);
}
std::string stripe_table_name(const std::string& dataset) { return dataset + ".stripes"; }

bool chunk_intact(std::span<const std::byte> file, const Block& block, std::size_t index) {
  const auto begin = static_cast<std::int64_t>(index) * kChunk;
  const std::int64_t values = std::min(kChunk, block.count - begin);
  return xxh3_64(file.subspan(block.offset + static_cast<std::size_t>(begin) * sizeof(float),
                              static_cast<std::size_t>(values) * sizeof(float))) ==
         block.checksums[index];
}

}  // namespace demist::checkpoint
