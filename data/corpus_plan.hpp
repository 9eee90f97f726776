// What a corpus build has to do: its inputs cut into numbered ranges, and the identity of the job.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/corpus.hpp"
#include "data/manifest.hpp"
#include "data/reader.hpp"

namespace demist::data {

// One numbered task. A range lies in one input, so a shard has one language.
struct InputRange {
  std::uint64_t number = 0;
  std::size_t input = 0;
  ByteRange bytes;
  bool sequential = false;  // compressed or a pipe: read from the start, cut while reading
  bool pipe = false;        // standard input and such: only rank 0 has it, nobody reads it twice
};

struct InputState {
  std::uint64_t bytes = 0;
  std::int64_t modified = 0;  // nanoseconds
  bool operator==(const InputState&) const = default;
};

struct BuildPlan {
  std::string id;  // SHA-256 over everything that decides the result
  std::vector<InputState> inputs;
  std::vector<InputRange> ranges;
  std::uint64_t total_bytes = 0;
  bool has_pipe = false;  // then total_bytes is not the total
  std::uint64_t empty_inputs = 0;
};

// Throws ConfigError or DataError for inputs that cannot be read as asked.
BuildPlan plan_corpus(const CorpusBuild& build, const std::string& tokenizer_hash);
// Throws DataError when an input is not what it was at planning time.
void require_unchanged(const CorpusBuild& build, const BuildPlan& plan);

std::vector<std::string> languages_of(const CorpusBuild& build);  // sorted, each once

// Names inside the output folder.
std::filesystem::path shard_file(std::uint64_t range, std::uint64_t part);  // shard-000007-0000.h5
std::filesystem::path state_folder(const CorpusBuild& build);               // gone when done
std::filesystem::path state_file(const CorpusBuild& build, std::uint64_t range);
std::filesystem::path build_file(const CorpusBuild& build);  // which build made the corpus

}  // namespace demist::data
