// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "data/corpus.hpp"
#include "data/corpus_deal.hpp"
#include "data/corpus_plan.hpp"
#include "data/corpus_range.hpp"
#include "data/manifest.hpp"

namespace demist::data {
namespace {

std::string id_of_build_file(const fs::path& path) {
  if (!fs::exists(path)) return {};
  const nlohmann::json json =
      nlohmann::json::parse(read_file(path), nullptr, /*allow_exceptions=*/false);
  return json.is_object() ? json.value("build_id", std::string()) : std::string();
}

CorpusSummary summarize(const Manifest& manifest, const BuildPlan& plan) {
  CorpusSummary summary;
  summary.shards = manifest.shards.size();
  summary.documents = manifest.documents();
  summary.tokens = manifest.tokens();
  summary.empty_inputs = plan.empty_inputs;
  for (const ManifestInput& input : manifest.inputs) {
    summary.input_bytes += input.bytes;
    summary.skipped.add(input.skipped);
  }
  return summary;
}

// The manifest of a finished corpus that this same build made; nothing when there is work to do.
// Throws when the folder holds somebody else's corpus.
std::optional<Manifest> existing_corpus(const CorpusBuild& build, const BuildPlan& plan,
                                        const Tokenizer& tokenizer) {
  const fs::path path = build.output / kManifestName;
  if (!fs::exists(path)) return std::nullopt;
  Manifest manifest = parse_manifest(read_file(path), path);
  const std::string remedy = "; remove the folder or choose another one";
  if (manifest.tokenizer_hash != tokenizer.hash())
    throw DataError(build.output.string() + ": already holds a corpus encoded with tokenizer " +
                    manifest.tokenizer_hash.substr(0, 12) + ", not with " +
                    build.tokenizer.string() + " (" + tokenizer.hash().substr(0, 12) + ")" +
                    remedy);
  if (plan.has_pipe || id_of_build_file(build_file(build)) != plan.id)
    throw DataError(build.output.string() +
                    ": already holds a corpus made from other inputs or options" + remedy);
  try {
    verify_corpus(build.output);  // whoever builds a corpus wants a whole one
    return manifest;
  } catch (const DataError& error) {
    log::warning("building the corpus again, because it is damaged: " + std::string(error.what()));
  }
  fs::remove(path);
  return std::nullopt;
}

Manifest manifest_of(const CorpusBuild& build, const BuildPlan& plan, const Tokenizer& tokenizer,
                     const std::vector<RangeResult>& results) {
  Manifest manifest{.name = build.name,
                    .tokenizer_hash = tokenizer.hash(),
                    .vocab_size = tokenizer.vocab_size(),
                    .languages = languages_of(build),
                    .inputs = {},
                    .shards = {}};
  for (std::size_t i = 0; i < build.inputs.size(); ++i) {
    const CorpusInput& input = build.inputs[i];
    manifest.inputs.push_back(
        {.name = input.path.filename().string(),
         .language = input.language,
         .format = input.format.format == TextFormat::plain ? "plain" : "jsonl",
         .bytes = plan.inputs[i].bytes,
         .documents = 0,
         .skipped = {}});
  }
  for (const RangeResult& result : results) {
    ManifestInput& input = manifest.inputs.at(result.input);
    input.skipped.add(result.skipped);
    if (plan.ranges.at(result.range).pipe) input.bytes = result.input_bytes;
    for (const ManifestShard& shard : result.shards) {
      input.documents += shard.documents;
      manifest.shards.push_back(shard);
    }
  }
  return manifest;
}

std::string share_text(double share) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.3g %%", 100 * share);
  return text.data();
}

std::string counts_text(const SkipCounts& skipped) {
  return std::to_string(skipped.invalid_utf8) + " not UTF-8, " + std::to_string(skipped.bad_json) +
         " bad JSON, " + std::to_string(skipped.too_long) + " too long";
}

// Documents that hold something, good or not: whether one is empty depends on the layout of the
// text, and says nothing about its quality.
std::uint64_t documents_seen(const CorpusSummary& summary) {
  return summary.documents + summary.skipped.invalid();
}

void warn_of_skips(const CorpusBuild& build, const CorpusSummary& summary) {
  const SkipCounts& skipped = summary.skipped;
  if (skipped.invalid() == 0) return;
  log::warning("corpus " + build.name + ": left out " + std::to_string(skipped.invalid()) + " of " +
               std::to_string(documents_seen(summary)) + " documents (" + counts_text(skipped) +
               ")" + (skipped.first.empty() ? "" : "; first: " + skipped.first));
}

void require_enough_text(const CorpusBuild& build, const CorpusSummary& summary) {
  const SkipCounts& skipped = summary.skipped;
  const std::uint64_t seen = documents_seen(summary);
  const double share =
      seen == 0 ? 0 : static_cast<double>(skipped.invalid()) / static_cast<double>(seen);
  if (share > build.max_invalid_fraction)
    throw DataError("corpus build: " + std::to_string(skipped.invalid()) + " of " +
                    std::to_string(seen) + " documents cannot be used (" + counts_text(skipped) +
                    "), more than the " + share_text(build.max_invalid_fraction) +
                    " allowed; first: " + skipped.first +
                    "; mend the input or raise max_invalid (--max-invalid)");
  if (summary.documents == 0)
    throw DataError("corpus build: no document in " + std::to_string(build.inputs.size()) +
                    " input file(s), the first is " + build.inputs.front().path.string() +
                    "; name files with text");
}

// Shards and temporary files of this folder's earlier, different builds.
void remove_leftovers(const CorpusBuild& build, const Manifest& manifest) {
  std::set<std::string> listed;
  for (const ManifestShard& shard : manifest.shards) listed.insert(shard.file);
  std::vector<fs::path> leftovers;
  for (const auto& entry : fs::directory_iterator(build.output)) {
    const std::string name = entry.path().filename().string();
    const bool ours = name.starts_with("shard-") || name.starts_with(kManifestName);
    const bool temporary = name.ends_with(".tmp");
    if (ours && (temporary || (name.ends_with(".h5") && !listed.contains(name))))
      leftovers.push_back(entry.path());
  }
  for (const fs::path& path : leftovers) fs::remove(path);
}

CorpusSummary finish(const CorpusBuild& build, const BuildPlan& plan, const Tokenizer& tokenizer,
                     const Dealt& dealt) {
  require_unchanged(build, plan);
  const Manifest manifest = manifest_of(build, plan, tokenizer, dealt.results);
  CorpusSummary summary = summarize(manifest, plan);
  summary.kept_ranges = dealt.kept;
  require_enough_text(build, summary);
  warn_of_skips(build, summary);
  remove_leftovers(build, manifest);
  atomic_write(build_file(build), nlohmann::json{{"build_id", plan.id}}.dump() + "\n");
  atomic_write(build.output / kManifestName, to_json(manifest));
  fs::remove_all(state_folder(build));
  return summary;
}

std::string to_text(const CorpusSummary& summary) {
  const SkipCounts& skipped = summary.skipped;
  return nlohmann::json{{"shards", summary.shards},
                        {"documents", summary.documents},
                        {"tokens", summary.tokens},
                        {"input_bytes", summary.input_bytes},
                        {"empty_inputs", summary.empty_inputs},
                        {"kept_ranges", summary.kept_ranges},
                        {"invalid_utf8", skipped.invalid_utf8},
                        {"bad_json", skipped.bad_json},
                        {"too_long", skipped.too_long},
                        {"empty", skipped.empty},
                        {"first", skipped.first},
                        {"already_done", summary.already_done}}
      .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

CorpusSummary summary_of(const std::string& text) {
  const nlohmann::json json = nlohmann::json::parse(text);
  CorpusSummary summary;
  json.at("shards").get_to(summary.shards);
  json.at("documents").get_to(summary.documents);
  json.at("tokens").get_to(summary.tokens);
  json.at("input_bytes").get_to(summary.input_bytes);
  json.at("empty_inputs").get_to(summary.empty_inputs);
  json.at("kept_ranges").get_to(summary.kept_ranges);
  json.at("invalid_utf8").get_to(summary.skipped.invalid_utf8);
  json.at("bad_json").get_to(summary.skipped.bad_json);
  json.at("too_long").get_to(summary.skipped.too_long);
  json.at("empty").get_to(summary.skipped.empty);
  json.at("first").get_to(summary.skipped.first);
  json.at("already_done").get_to(summary.already_done);
  return summary;
}

// A build needs no MPI where one process does it all.
std::string from_rank_zero(const mpi::Comm& comm, std::string text) {
  return comm.size() == 1 ? text : comm.broadcast(std::move(text), 0);
}

}  // namespace

CorpusSummary build_corpus(const mpi::Comm& world, const CorpusBuild& build) {
  const mpi::Comm comm = world.size() == 1 ? world : world.duplicate();
  std::optional<Tokenizer> tokenizer;
  BuildPlan plan;
  std::optional<Manifest> done;
  mpi::together(comm, "plan corpus", [&] {
    tokenizer.emplace(build.tokenizer);
    plan = plan_corpus(build, tokenizer->hash());
    if (comm.rank() != 0) return;
    done = existing_corpus(build, plan, *tokenizer);
    if (!done) fs::create_directories(state_folder(build));
  });
  CorpusSummary summary;
  if (done) {
    summary = summarize(*done, plan);
    summary.already_done = true;
  }
  summary = summary_of(from_rank_zero(comm, to_text(summary)));
  if (summary.already_done) {
    if (comm.rank() == 0) warn_of_skips(build, summary);
    return summary;
  }
  const RangeBuilder builder(build, plan, *tokenizer);
  const Dealt dealt = deal_ranges(comm, plan, builder);
  mpi::together(comm, "write manifest", [&] {
    if (comm.rank() == 0) summary = finish(build, plan, *tokenizer, dealt);
  });
  return summary_of(from_rank_zero(comm, to_text(summary)));
}

}  // namespace demist::data
