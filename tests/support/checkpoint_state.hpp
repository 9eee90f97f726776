// A small training state for checkpoint tests, and the ways in which ranks may hold it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "worker/checkpoint/checkpoint.hpp"

namespace demist::test {

namespace ck = checkpoint;

enum class Split { rows, columns, flat };
inline constexpr Split kSplits[] = {Split::rows, Split::columns, Split::flat};

struct State {
  std::vector<ck::LogicalTensor> tensors;
  std::vector<std::vector<float>> values[3];  // [kind][tensor]

  float* at(std::size_t tensor, ck::Kind kind, std::int64_t i) {
    return values[static_cast<std::size_t>(kind)][tensor].data() + i;
  }
};

inline std::vector<ck::LogicalTensor> small_table() {
  return {{"embed.weight", 37, 12}, {"layer.0.bias", 1, 13}, {"empty", 0, 4},
          {"scalar", 1, 1},         {"tall", 29, 1},         {"another.weight", 16, 33}};
}

// Arbitrary bit patterns: a checkpoint must keep NaN payloads and signs of zero too.
inline State make_state(std::vector<ck::LogicalTensor> tensors, std::uint32_t seed = 1) {
  State state{.tensors = std::move(tensors), .values = {}};
  std::uint32_t bits = seed;
  for (auto& kind : state.values)
    for (const ck::LogicalTensor& tensor : state.tensors) {
      auto& values = kind.emplace_back(static_cast<std::size_t>(tensor.size()));
      for (float& value : values) value = std::bit_cast<float>(bits = bits * 1664525 + 1013904223);
    }
  return state;
}

struct Range {
  std::int64_t begin, end;
};
inline Range share(std::int64_t total, int rank, int ranks) {
  return {total * rank / ranks, total * (rank + 1) / ranks};
}

// Pieces of rank `rank` of `ranks`, as (tensor, start, count).
struct Place {
  std::size_t tensor;
  std::int64_t start, count;
};
inline std::vector<Place> places(const std::vector<ck::LogicalTensor>& tensors, Split split,
                                 int rank, int ranks) {
  std::vector<Place> result;
  std::int64_t total = 0, before = 0;
  for (const auto& tensor : tensors) total += tensor.size();
  const Range flat = share(total, rank, ranks);
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    const auto& [name, rows, cols] = tensors[t];
    const Range r = share(rows, rank, ranks), c = share(cols, rank, ranks);
    if (split == Split::rows) result.push_back({t, r.begin * cols, (r.end - r.begin) * cols});
    if (split == Split::columns)
      for (std::int64_t row = 0; row < rows; ++row)
        result.push_back({t, row * cols + c.begin, c.end - c.begin});
    const std::int64_t begin = std::max(flat.begin, before);
    const std::int64_t end = std::min(flat.end, before + rows * cols);
    if (split == Split::flat && begin < end) result.push_back({t, begin - before, end - begin});
    before += rows * cols;
  }
  return result;
}

inline std::vector<ck::Piece> pieces_of(State& state, Split split, int rank, int ranks) {
  std::vector<ck::Piece> pieces;
  for (const Place& place : places(state.tensors, split, rank, ranks))
    for (const ck::Kind kind : ck::kKinds)
      pieces.push_back({place.tensor, kind, place.start,
                        std::span<const float>(state.at(place.tensor, kind, place.start),
                                               static_cast<std::size_t>(place.count))});
  return pieces;
}

// Reads the places of (split, rank, ranks) and compares bits; returns the first difference in
// words.
inline std::string difference(const ck::Checkpoint& checkpoint, State& state, Split split, int rank,
                              int ranks) {
  for (const Place& place : places(state.tensors, split, rank, ranks))
    for (const ck::Kind kind : ck::kKinds) {
      std::vector<float> got(static_cast<std::size_t>(place.count));
      checkpoint.read({place.tensor, kind, place.start, got});
      if (place.count > 0 && std::memcmp(got.data(), state.at(place.tensor, kind, place.start),
                                         got.size() * sizeof(float)) != 0)
        return state.tensors[place.tensor].name + " " + ck::name_of(kind) + " at " +
               std::to_string(place.start);
    }
  return {};
}

inline ck::Meta make_meta(std::int64_t step) {
  return {.step = step,
          .stage = "pretrain",
          .model_json = R"({"layers":2,"name":"ü"})",
          .recipe_hash = "r1",
          .tokenizer_hash = "t1",
          .data_hash = "d1",
          .state_json = R"({"scale":[1,2]})"};
}

}  // namespace demist::test
