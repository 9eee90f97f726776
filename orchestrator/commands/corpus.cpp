// SPDX-License-Identifier: Apache-2.0
#include "data/corpus.hpp"

#include <cstdio>

#include "core/error.hpp"
#include "data/describe.hpp"
#include "data/tokenizer.hpp"
#include "orchestrator/commands/commands.hpp"

namespace demist::cli {

namespace fs = std::filesystem;

namespace {

// "de=/data/news.de.txt.zst" or a bare path.
data::CorpusInput input_of(const std::string& argument, const data::DocumentFormat& format) {
  const std::size_t equals = argument.find('=');
  const bool tagged = equals != std::string::npos && argument.find('/') > equals;
  data::CorpusInput input;
  input.path = tagged ? argument.substr(equals + 1) : argument;
  if (tagged) input.language = argument.substr(0, equals);
  input.format = format;
  return input;
}

int build(const Arguments& arguments, const mpi::Comm& world) {
  Options options("demist corpus build [LANGUAGE=]FILE... --tokenizer MODEL --output FOLDER",
                  "Turns text into a corpus: a folder of HDF5 token shards and a manifest. Inputs\n"
                  "are plain text or JSONL, gzip and zstd too; \"-\" is standard input. The same\n"
                  "bits on any number of ranks (start it with mpirun), resumable.");
  options.rest("FILE", 1)
      .value("tokenizer", "MODEL", "SentencePiece model (`demist tokenizer train`)")
      .value("output", "FOLDER", "the corpus to make")
      .value("name", "NAME", "name of the corpus; default: the folder's")
      .value("format", "FORMAT", "text (an empty line ends a document) or jsonl")
      .value("json-field", "NAME", "JSONL: field of the document; default: text")
      .value("range-bytes", "BYTES", "input bytes of one task and shard; default: 16777216")
      .value("max-invalid", "SHARE", "largest share of unreadable documents; default: 0.01");
  if (!options.parse(arguments)) return 0;
  if (!options.has("tokenizer") || !options.has("output"))
    throw ConfigError("--tokenizer and --output are needed; see `demist corpus build --help`");
  data::DocumentFormat format;
  if (options.choice("format", {"text", "jsonl"}) == "jsonl")
    format.format = data::TextFormat::jsonl;
  else if (options.has("json-field"))
    throw ConfigError("--json-field has no meaning for text; add --format jsonl, or remove it");
  format.json_field = options.get("json-field", format.json_field);
  data::CorpusBuild plan;
  plan.output = options.get("output", "");
  plan.name = options.get("name", fs::absolute(plan.output).lexically_normal().filename().string());
  plan.tokenizer = options.get("tokenizer", "");
  plan.range_bytes = options.integer<std::uint64_t>("range-bytes", plan.range_bytes, 4096);
  plan.max_invalid_fraction = options.real("max-invalid", plan.max_invalid_fraction, 0, 1);
  for (const std::string& argument : options.positionals())
    plan.inputs.push_back(input_of(argument, format));
  const data::CorpusSummary summary = data::build_corpus(world, plan);
  if (world.rank() == 0)
    std::printf("%s: %llu documents, %llu tokens, %llu shards%s\n", plan.output.c_str(),
                static_cast<unsigned long long>(summary.documents),
                static_cast<unsigned long long>(summary.tokens),
                static_cast<unsigned long long>(summary.shards),
                summary.already_done ? " (done already)" : "");
  return 0;
}

int verify(const Arguments& arguments, const mpi::Comm&) {
  Options options("demist corpus verify FOLDER...",
                  "Checks every shard of a corpus against its checksums.");
  options.rest("FOLDER", 1);
  if (!options.parse(arguments)) return 0;
  for (const std::string& folder : options.positionals()) {
    data::verify_corpus(folder);
    std::printf("%s: whole\n", folder.c_str());
  }
  return 0;
}

int show(const Arguments& arguments, const mpi::Comm&) {
  Options options("demist corpus show FOLDER [options]",
                  "Says what a corpus holds; with --tokenizer also its first documents as text.");
  options.positional("FOLDER")
      .value("tokenizer", "MODEL", "the tokenizer it was built with")
      .value("documents", "N", "documents to show; default: 3");
  if (!options.parse(arguments)) return 0;
  if (options.has("documents") && !options.has("tokenizer"))
    throw ConfigError("--documents needs --tokenizer: the corpus holds ids, not text");
  const fs::path folder = options.positionals().front();
  const auto documents = options.integer<std::uint64_t>("documents", 3, 0);
  const std::string about = data::describe(folder);
  std::string text;
  if (const auto model = options.find("tokenizer"))
    text = data::show_documents(folder, data::Tokenizer(*model), 0, documents);
  std::printf("%s%s%s", about.c_str(), text.empty() ? "" : "\n", text.c_str());
  return 0;
}

}  // namespace

int corpus(const Arguments& arguments, const mpi::Comm& world) {
  return run_action("corpus", {{"build", build}, {"verify", verify}, {"show", show}}, arguments,
                    world);
}

}  // namespace demist::cli
