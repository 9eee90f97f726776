// Golden files of tests/golden: safetensors in, doubles out, with Hugging Face's names and ours.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/error.hpp"
#include "core/file.hpp"
#include "worker/config.hpp"

namespace demist::golden {

struct Tensor {
  std::vector<std::int64_t> shape;
  std::vector<double> values;  // row-major, widened from the file's type without loss

  template <class T>
  std::vector<T> as() const {
    std::vector<T> out;
    for (const double v : values) out.push_back(static_cast<T>(v));
    return out;
  }
};
using Tensors = std::map<std::string, Tensor>;

template <class T>
std::vector<double> widen(std::string_view bytes) {
  std::vector<double> out(bytes.size() / sizeof(T));
  for (std::size_t i = 0; i < out.size(); ++i) {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    out[i] = static_cast<double>(value);
  }
  return out;
}

// The safetensors layout: 8-byte little-endian header size, JSON header, data.
inline Tensors load_safetensors(const std::filesystem::path& path) {
  const std::string file = read_file(path);
  std::uint64_t header_size = 0;
  ensure(file.size() > sizeof(header_size), "golden file is too short");
  std::memcpy(&header_size, file.data(), sizeof(header_size));
  const auto header = nlohmann::json::parse(file.substr(sizeof(header_size), header_size));
  const std::string_view data = std::string_view(file).substr(sizeof(header_size) + header_size);
  Tensors tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const auto range = entry.at("data_offsets").get<std::pair<std::size_t, std::size_t>>();
    const auto bytes = data.substr(range.first, range.second - range.first);
    const auto dtype = entry.at("dtype").get<std::string>();
    ensure(dtype == "F32" || dtype == "F64" || dtype == "I32", "golden file has an unknown type");
    tensors[name] = {entry.at("shape").get<std::vector<std::int64_t>>(),
                     dtype == "F32"   ? widen<float>(bytes)
                     : dtype == "F64" ? widen<double>(bytes)
                                      : widen<std::int32_t>(bytes)};
  }
  return tensors;
}

// Hugging Face's name of a parameter -> ours; {i} stands for the layer's number.
struct NamePair {
  const char* theirs;
  const char* ours;
};
inline std::vector<NamePair> name_table(NormPlacement norm) {
  std::vector<NamePair> table = {
      {"roberta.embeddings.word_embeddings", "embeddings.word"},
      {"roberta.embeddings.position_embeddings", "embeddings.position"},
      {"roberta.embeddings.token_type_embeddings", "embeddings.token_type"},
      {"roberta.encoder.layer.{i}.attention.self.query", "layers.{i}.attention.query"},
      {"roberta.encoder.layer.{i}.attention.self.key", "layers.{i}.attention.key"},
      {"roberta.encoder.layer.{i}.attention.self.value", "layers.{i}.attention.value"},
      {"roberta.encoder.layer.{i}.attention.output.dense", "layers.{i}.attention.output"},
      {"roberta.encoder.layer.{i}.intermediate.dense", "layers.{i}.ffn.in"},
      {"roberta.encoder.layer.{i}.output.dense", "layers.{i}.ffn.out"},
      {"lm_head.dense", "head.dense"},
      {"lm_head.layer_norm", "head.norm"},
      {"lm_head", "head"},
  };
  const std::vector<NamePair> post = {
      {"roberta.embeddings.LayerNorm", "embeddings.norm"},
      {"roberta.encoder.layer.{i}.attention.output.LayerNorm", "layers.{i}.attention.norm"},
      {"roberta.encoder.layer.{i}.output.LayerNorm", "layers.{i}.ffn.norm"},
  };
  const std::vector<NamePair> pre = {
      {"roberta.encoder.layer.{i}.attention.self_attn_layer_norm", "layers.{i}.attention.norm"},
      {"roberta.encoder.layer.{i}.LayerNorm", "layers.{i}.ffn.norm"},
      {"roberta.encoder.LayerNorm", "final_norm"},
  };
  const auto& more = norm == NormPlacement::post ? post : pre;
  table.insert(table.end(), more.begin(), more.end());
  return table;
}

// "lm_head.dense.bias" -> "head.dense.bias". Throws InternalError for a name that is not mapped.
inline std::string logical_name(const std::string& theirs, NormPlacement norm) {
  std::string stem = theirs.substr(0, theirs.rfind('.'));
  const std::string leaf = theirs.substr(theirs.rfind('.'));
  const std::string prefix = "roberta.encoder.layer.";
  std::string layer;
  if (stem.starts_with(prefix)) {
    layer = stem.substr(prefix.size(), stem.find('.', prefix.size()) - prefix.size());
    stem.replace(prefix.size(), layer.size(), "{i}");
  }
  for (const NamePair& pair : name_table(norm)) {
    if (stem != pair.theirs) continue;
    std::string ours = pair.ours;
    if (const auto at = ours.find("{i}"); at != std::string::npos) ours.replace(at, 3, layer);
    return ours + leaf;
  }
  throw InternalError(theirs + ": no such parameter in the golden name table");
}

// One folder made by make_hf_golden.py; `expected` is documented there.
struct ModelCase {
  ModelConfig config;
  Tensors weights;             // our names
  Tensors gradients;           // our names; of loss.mean, every parameter
  Tensors weighted_gradients;  // our names; of loss.weighted, a few parameters
  Tensors expected;            // everything else
};

inline ModelConfig read_config(const std::filesystem::path& path) {
  const auto json = nlohmann::json::parse(read_file(path));
  ModelConfig config;
  config.layers = json.at("num_hidden_layers");
  config.hidden = json.at("hidden_size");
  config.ffn = json.at("intermediate_size");
  config.heads = json.at("num_attention_heads");
  config.vocab = json.at("vocab_size");
  config.positions = json.at("max_position_embeddings");
  config.norm = json.at("model_type") == "xlm-roberta" ? NormPlacement::post : NormPlacement::pre;
  config.norm_epsilon = json.at("layer_norm_eps");
  config.hidden_dropout = json.at("hidden_dropout_prob");
  config.attention_dropout = json.at("attention_probs_dropout_prob");
  return config;
}

inline ModelCase load_model_case(const std::filesystem::path& folder) {
  ModelCase out;
  out.config = read_config(folder / "config.json");
  for (auto& [name, tensor] : load_safetensors(folder / "model.safetensors"))
    out.weights[logical_name(name, out.config.norm)] = tensor;
  for (auto& [name, tensor] : load_safetensors(folder / "expected.safetensors")) {
    if (name.starts_with("gradient/"))
      out.gradients[logical_name(name.substr(9), out.config.norm)] = tensor;
    else if (name.starts_with("gradient.weighted/"))
      out.weighted_gradients[logical_name(name.substr(18), out.config.norm)] = tensor;
    else
      out.expected[name] = tensor;
  }
  return out;
}

}  // namespace demist::golden
