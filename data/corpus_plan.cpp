// SPDX-License-Identifier: Apache-2.0
#include "data/corpus_plan.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <set>

#include "core/checksum.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "data/byte_source.hpp"

namespace demist::data {
namespace {

constexpr std::uint64_t kSmallestRange = 1024;
constexpr std::size_t kMostLanguages = 256;  // a document's language is one byte

void require_sound(const CorpusBuild& build) {
  if (build.inputs.empty()) throw ConfigError("corpus build: no input files");
  if (build.range_bytes < kSmallestRange)
    throw ConfigError("corpus build: range_bytes must be at least 1024, better some MiB");
  if (!(build.max_invalid_fraction >= 0 && build.max_invalid_fraction <= 1))
    throw ConfigError("corpus build: max_invalid_fraction must lie in 0 to 1");
  for (const CorpusInput& input : build.inputs)
    if (!is_language_tag(input.language))
      throw ConfigError("corpus build: '" + input.language + "' of " + input.path.string() +
                        " is not a language tag such as en or pt-BR");
  if (languages_of(build).size() > kMostLanguages)
    throw ConfigError("corpus build: more than 256 languages");
  if (std::ranges::count(build.inputs, fs::path("-"), &CorpusInput::path) > 1)
    throw ConfigError("corpus build: standard input can be given once only");
}

InputState state_of(const fs::path& path) {
  if (path == "-") return {};
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) refuse_unread(path, "use this input", errno);
  if (S_ISDIR(info.st_mode))
    throw DataError(path.string() + ": is a folder; name the text files in it");
  if (!S_ISREG(info.st_mode)) return {};
  return {static_cast<std::uint64_t>(info.st_size),
          std::int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec};
}

void add_ranges(const CorpusBuild& build, std::size_t input, BuildPlan& plan) {
  const fs::path& path = build.inputs[input].path;
  const std::uint64_t size = plan.inputs[input].bytes;
  const bool pipe = path == "-" || !fs::is_regular_file(path);
  if (!pipe && size == 0) {
    ++plan.empty_inputs;
    log::warning(path.string() + ": empty file, left out");
    return;
  }
  plan.total_bytes += size;
  plan.has_pipe = plan.has_pipe || pipe;
  if (!is_seekable_text(path)) {
    plan.ranges.push_back({plan.ranges.size(), input, {}, true, pipe});
    return;
  }
  for (std::uint64_t begin = 0; begin < size; begin += build.range_bytes)
    plan.ranges.push_back({plan.ranges.size(),
                           input,
                           {begin, std::min(begin + build.range_bytes, size)},
                           false,
                           false});
}

// However it is spelled, and from whichever folder.
std::string name_of(const fs::path& path) {
  return path == "-" ? path.string() : fs::weakly_canonical(fs::absolute(path)).string();
}

std::string identity(const CorpusBuild& build, const BuildPlan& plan,
                     const std::string& tokenizer) {
  std::string text = "demist.corpus build/1\n" + build.name + "\n" + tokenizer + "\n" +
                     std::to_string(build.range_bytes) + "\n";
  for (std::size_t i = 0; i < build.inputs.size(); ++i) {
    const CorpusInput& input = build.inputs[i];
    const bool plain = input.format.format == TextFormat::plain;
    text += name_of(input.path) + "\n" + input.language + "\n" +
            (plain ? std::string("plain") : "jsonl " + input.format.json_field) + "\n" +
            std::to_string(plan.inputs[i].bytes) + " " + std::to_string(plan.inputs[i].modified) +
            "\n";
  }
  return sha256_hex(text);
}

}  // namespace

std::vector<std::string> languages_of(const CorpusBuild& build) {
  std::set<std::string> languages;
  for (const CorpusInput& input : build.inputs) languages.insert(input.language);
  return {languages.begin(), languages.end()};
}

BuildPlan plan_corpus(const CorpusBuild& build, const std::string& tokenizer_hash) {
  require_sound(build);
  BuildPlan plan;
  for (const CorpusInput& input : build.inputs) plan.inputs.push_back(state_of(input.path));
  for (std::size_t i = 0; i < build.inputs.size(); ++i) add_ranges(build, i, plan);
  plan.id = identity(build, plan, tokenizer_hash);
  return plan;
}

void require_unchanged(const CorpusBuild& build, const BuildPlan& plan) {
  for (std::size_t i = 0; i < build.inputs.size(); ++i)
    if (state_of(build.inputs[i].path) != plan.inputs[i])
      throw DataError(build.inputs[i].path.string() +
                      ": changed while it was read; build the corpus again");
}

fs::path shard_file(std::uint64_t range, std::uint64_t part) {
  std::array<char, 64> name{};
  std::snprintf(name.data(), name.size(), "shard-%06llu-%04llu.h5",
                static_cast<unsigned long long>(range), static_cast<unsigned long long>(part));
  return name.data();
}

fs::path state_folder(const CorpusBuild& build) { return build.output / kStateFolder; }
fs::path state_file(const CorpusBuild& build, std::uint64_t range) {
  return state_folder(build) / ("range-" + std::to_string(range) + ".json");
}
fs::path build_file(const CorpusBuild& build) { return build.output / "build.json"; }

}  // namespace demist::data
