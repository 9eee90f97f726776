// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdio>

#include "core/error.hpp"
#include "core/file.hpp"
#include "data/corpus.hpp"
#include "data/shard.hpp"
#include "orchestrator/commands/commands.hpp"
#include "orchestrator/nearest.hpp"
#include "worker/checkpoint/checkpoint.hpp"

namespace demist::cli {
namespace {

void show_checkpoint(const checkpoint::Checkpoint& ck, bool tensors) {
  const checkpoint::Meta& meta = ck.meta();
  std::int64_t parameters = 0;
  for (const auto& tensor : ck.tensors()) parameters += tensor.size();
  std::printf(
      "checkpoint  %s\nstage       %s\nstep        %lld\nmodel       %s\n"
      "parameters  %lld in %zu tensors%s\nrecipe      %s\ntokenizer   %s\ndata        %s\n",
      ck.directory().c_str(), meta.stage.c_str(), static_cast<long long>(meta.step),
      meta.model_json.c_str(), static_cast<long long>(parameters), ck.tensors().size(),
      ck.has(checkpoint::Kind::adam_m) ? ", with optimizer state" : "", meta.recipe_hash.c_str(),
      meta.tokenizer_hash.c_str(), meta.data_hash.c_str());
  for (const auto& tensor : ck.tensors())
    if (tensors)
      std::printf("  %-64s %8lld x %lld\n", tensor.name.c_str(),
                  static_cast<long long>(tensor.rows), static_cast<long long>(tensor.cols));
}

void show_shard(const fs::path& path) {
  const data::Shard shard(path);
  const data::ShardHeader& header = shard.header();
  std::printf(
      "shard       %s\ncorpus      %s, shard %llu\ntokens      %llu\ndocuments   %llu\n"
      "vocabulary  %lld\ntokenizer   %s\n",
      path.c_str(), header.corpus_name.c_str(), static_cast<unsigned long long>(header.shard_index),
      static_cast<unsigned long long>(header.n_tokens),
      static_cast<unsigned long long>(header.n_documents),
      static_cast<long long>(header.vocab_size), header.tokenizer_hash.c_str());
  for (std::size_t i = 0; i < header.languages.size(); ++i)
    std::printf("  %-6s %llu tokens\n", header.languages[i].c_str(),
                static_cast<unsigned long long>(header.language_tokens[i]));
}

void show_corpus(const fs::path& folder) {
  const data::Corpus corpus(folder);
  std::printf(
      "corpus      %s\ntokens      %llu\nshards      %zu\nvocabulary  %lld\n"
      "languages   %s\ntokenizer   %s\nhash        %s\n",
      corpus.name().c_str(), static_cast<unsigned long long>(corpus.n_tokens()),
      corpus.shards().size(), static_cast<long long>(corpus.vocab_size()),
      join(corpus.languages(), " ").c_str(), corpus.tokenizer_hash().c_str(),
      corpus.hash().c_str());
}

// A run folder: its stages in the order in which they were done.
void show_run(const fs::path& folder) {
  std::printf("run         %s\n", folder.c_str());
  std::vector<std::pair<fs::file_time_type, fs::path>> stages;
  for (const auto& entry : fs::directory_iterator(folder))
    for (const char* state : {"done.json", "started.json"}) {
      const fs::path path = entry.path() / state;
      if (!fs::is_regular_file(path)) continue;
      stages.emplace_back(fs::last_write_time(path), path);
      break;
    }
  std::sort(stages.begin(), stages.end());
  for (const auto& [time, path] : stages)
    std::printf("\nstage %s: %s\n%s", path.parent_path().filename().c_str(), path.stem().c_str(),
                read_file(path).c_str());
}

bool is_checkpoint(const fs::path& path) { return fs::exists(path / "MANIFEST.json"); }

bool holds_checkpoints(const fs::path& path) {
  if (!fs::is_directory(path)) return false;
  return std::any_of(fs::directory_iterator(path), fs::directory_iterator(),
                     [](const auto& entry) { return is_checkpoint(entry.path()); });
}

}  // namespace

int inspect(const Arguments& arguments, const mpi::Comm&) {
  Options options("demist inspect PATH [options]",
                  "Says what a checkpoint (or a folder of them: the newest), a corpus, a shard or\n"
                  "a run folder holds.");
  options.positional("PATH", 1, 1)
      .flag("hash", "checkpoint: print only the hash of its state, equal for every layout")
      .flag("tensors", "checkpoint: list its tensors")
      .flag("verify", "check everything against its checksums");
  if (!options.parse(arguments)) return 0;
  const fs::path path = options.positionals().front();
  if (!fs::exists(path)) throw ConfigError(path.string() + " does not exist");
  if (options.has("hash") || is_checkpoint(path) || holds_checkpoints(path)) {
    const checkpoint::Checkpoint ck = checkpoint::open_any(path);
    if (options.has("verify")) ck.verify();
    if (options.has("hash"))
      std::printf("%s\n", ck.hash().c_str());
    else
      show_checkpoint(ck, options.has("tensors"));
  } else if (fs::is_regular_file(path)) {
    show_shard(path);
    if (options.has("verify")) data::Shard(path).verify();
  } else if (fs::exists(path / "recipe.textproto")) {
    show_run(path);
  } else {
    show_corpus(path);
    if (options.has("verify")) data::verify_corpus(path);
  }
  return 0;
}

}  // namespace demist::cli
