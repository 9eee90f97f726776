// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <fstream>

#include "core/error.hpp"
#include "core/file.hpp"
#include "data/corpus.hpp"
#include "data/describe.hpp"
#include "data/shard.hpp"
#include "data/tokenizer.hpp"
#include "orchestrator/commands/commands.hpp"
#include "orchestrator/config.hpp"
#include "orchestrator/memory_report.hpp"
#include "orchestrator/run_folder.hpp"
#include "worker/checkpoint/checkpoint.hpp"
#include "worker/checkpoint/describe.hpp"

namespace demist::cli {
namespace {

constexpr const char* kVerified = "verified       every checksum\n";

void show_checkpoint(const fs::path& path, const Options& options) {
  const checkpoint::Checkpoint ck = checkpoint::open_any(find_model(path));
  if (options.has("verify")) {
    ck.verify();
    ck.verify_tables();
  }
  if (options.has("hash")) {
    std::printf("%s\n", ck.hash().c_str());
    return;
  }
  std::printf("%s", checkpoint::describe(ck).c_str());
  for (const auto& tensor : ck.tensors())
    if (options.has("tensors"))
      std::printf("  %-64s %8lld x %lld\n", tensor.name.c_str(),
                  static_cast<long long>(tensor.rows), static_cast<long long>(tensor.cols));
  if (options.has("verify")) std::printf("%s", kVerified);
}

void refuse_flags(const Options& options, std::initializer_list<const char*> flags,
                  const std::string& what) {
  for (const char* flag : flags)
    if (options.has(flag))
      throw ConfigError(std::string("--") + flag + " is for checkpoints, and " + what);
}

// A corpus folder or a shard.
void show_tokens(const fs::path& path, const Options& options) {
  refuse_flags(options, {"hash", "tensors"}, path.string() + " holds tokens");
  std::printf("%s", data::describe(path).c_str());
  if (!options.has("verify")) return;
  if (fs::is_directory(path))
    data::verify_corpus(path);
  else
    data::Shard(path).verify();
  std::printf("%s", kVerified);
}

void show_tokenizer(const fs::path& path, const Options& options) {
  try {
    const data::Tokenizer tokenizer(path);
    refuse_flags(options, {"hash", "tensors", "verify"}, path.string() + " is a tokenizer");
    std::printf(
        "tokenizer      %s\nvocabulary     %d: %d SentencePiece pieces, and 2 more ids (<mask> is "
        "%d)\nhash           %s\n",
        path.c_str(), tokenizer.vocab_size(), tokenizer.vocab_size() - 2, tokenizer.mask_id(),
        tokenizer.hash().c_str());
  } catch (const DataError&) {
    throw DataError(
        path.string() +
        ": neither a shard, nor a part of a checkpoint, nor a whole SentencePiece model");
  }
}

bool is_hdf5(const fs::path& path) {
  std::string start(8, '\0');
  std::ifstream(path, std::ios::binary).read(start.data(), 8);
  return start == "\x89HDF\r\n\x1a\n";
}

bool is_in_checkpoint(const fs::path& file) {
  return fs::exists(fs::absolute(file).parent_path() / "MANIFEST.json");
}

// A recipe's plan of memory. Its tokenizer need not be there: `--vocab` says how large it will be.
void show_memory(const std::string& recipe, const Options& options) {
  const RunConfig run = load_recipe(find_recipe(recipe), options.all("set"));
  const auto vocabulary = [&]() -> std::int64_t {
    if (options.has("vocab")) return options.integer<std::int32_t>("vocab", 0, 8);
    if (fs::exists(run.tokenizer.model)) return data::Tokenizer(run.tokenizer.model).vocab_size();
    if (run.tokenizer.trained) return run.tokenizer.training.pieces + 2;
    throw ConfigError(run.tokenizer.model.string() + " does not exist; say how large its " +
                      "vocabulary is with --vocab");
  };
  std::printf("%s", describe_memory(run, vocabulary()).c_str());
}

}  // namespace

int inspect(const Arguments& arguments, const mpi::Comm&) {
  Options options("demist inspect PATH [options]",
                  "Says what a checkpoint (or a folder of them: the newest), a run folder, a\n"
                  "corpus, a shard or a tokenizer holds.");
  options.positional("PATH")
      .flag("hash", "only the hash of a checkpoint's state, equal for every layout")
      .flag("tensors", "list a checkpoint's tensors")
      .flag("verify", "check everything against its checksums")
      .flag("memory", "PATH is a recipe: what its training stages need, what fits on GPUs")
      .value("vocab", "N", "size of the vocabulary, for --memory without a tokenizer")
      .list("set", "PATH=VALUE", "with --memory: override a field of the recipe");
  if (!options.parse(arguments)) return 0;
  if (options.has("memory")) {
    refuse_flags(options, {"hash", "tensors", "verify"}, "--memory asks about a recipe");
    show_memory(options.positionals().front(), options);
    return 0;
  }
  for (const char* option : {"vocab", "set"})
    if (options.has(option))
      throw ConfigError(std::string("--") + option +
                        " needs --memory: it changes a recipe, not what lies in a file");
  fs::path path = options.positionals().front();
  if (!fs::exists(path))
    throw ConfigError(
        path.string() +
        " does not exist; name a run, a checkpoint, a corpus, a shard or a tokenizer");
  if (path.filename() == "corpus.json") path = fs::absolute(path).parent_path();
  const bool of_checkpoint = options.has("hash") || options.has("tensors") || options.has("verify");
  const bool other_file = !fs::is_directory(path) && !is_in_checkpoint(path);
  const bool is_corpus = fs::exists(path / "corpus.json");
  if (is_run_folder(path) && !of_checkpoint)
    std::printf("%s", describe_run(path).c_str());
  else if (is_corpus || (other_file && is_hdf5(path)))
    show_tokens(path, options);
  else if (other_file)
    show_tokenizer(path, options);
  else
    show_checkpoint(path, options);
  return 0;
}

}  // namespace demist::cli
