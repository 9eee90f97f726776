// SPDX-License-Identifier: Apache-2.0
#include "data/tokenizer.hpp"

#include <charconv>
#include <cstdio>
#include <sstream>

#include "core/error.hpp"
#include "data/reader.hpp"
#include "orchestrator/commands/commands.hpp"

namespace demist::cli {
namespace {

int train_model(const Arguments& arguments, const mpi::Comm&) {
  Options options("demist tokenizer train FILE... --output MODEL",
                  "Trains a SentencePiece unigram model on text files, a sentence or paragraph a\n"
                  "line. The same files give the same vocabulary.");
  options.rest("FILE", 1)
      .value("output", "MODEL", "the model file to write")
      .value("pieces", "N", "vocabulary pieces; default: 8000")
      .value("coverage", "SHARE", "share of characters covered, 0.98 to 1; default: 0.9995")
      .value("max-bytes", "BYTES", "train on an even sample of this size; default: 0, all");
  if (!options.parse(arguments)) return 0;
  const auto output = options.find("output");
  if (!output) throw ConfigError("--output is needed; see `demist tokenizer train --help`");
  data::TokenizerTraining training;
  training.inputs.assign(options.positionals().begin(), options.positionals().end());
  training.pieces = options.integer("pieces", training.pieces, 10);
  training.character_coverage = options.real("coverage", training.character_coverage, 0.98, 1);
  training.max_bytes = options.integer<std::int64_t>("max-bytes", 0, 0);
  data::train_tokenizer(training, *output);
  const data::Tokenizer tokenizer(*output);
  std::printf("%s: vocabulary %d, hash %s\n", output->c_str(), tokenizer.vocab_size(),
              tokenizer.hash().c_str());
  return 0;
}

// Calls `each` with every text given as an argument, or else with every line of standard input.
template <class Each>
void for_each_text(const std::vector<std::string>& given, const Each& each) {
  for (const std::string& text : given) each(text);
  if (!given.empty()) return;
  data::LineReader input("-");
  for (std::string line; input.next(line);) each(line);
}

int encode(const Arguments& arguments, const mpi::Comm&) {
  Options options("demist tokenizer encode MODEL [TEXT...]",
                  "Prints the ids of each text, or of each line of standard input.");
  options.positional("MODEL").rest("TEXT", 0).flag("pieces", "print pieces instead of ids");
  if (!options.parse(arguments)) return 0;
  const data::Tokenizer tokenizer(options.positionals().front());
  const std::vector<std::string> texts(options.positionals().begin() + 1,
                                       options.positionals().end());
  std::int64_t number = 0;
  for_each_text(texts, [&](const std::string& text) {
    ++number;
    if (!data::is_valid_utf8(text))  // left out, it would shift the lines after it
      throw DataError((texts.empty() ? "line " : "text ") + std::to_string(number) +
                      " is not valid UTF-8; convert it, or leave it out");
    std::string line;
    for (const std::int32_t id : tokenizer.encode(text)) {
      if (!line.empty()) line += ' ';
      line += options.has("pieces") ? tokenizer.piece(id) : std::to_string(id);
    }
    std::printf("%s\n", line.c_str());
  });
  return 0;
}

std::int32_t id_of(const std::string& word, const data::Tokenizer& tokenizer) {
  std::int32_t id = -1;
  const char* end = word.data() + word.size();
  const auto [stop, error] = std::from_chars(word.data(), end, id);
  if (stop != end || error == std::errc::invalid_argument)
    throw DataError("\"" + word + "\" is not an id; write a list of them like \"17 4 251\"");
  if (error != std::errc() || id < 0 || id >= tokenizer.vocab_size())
    throw DataError("id " + word + " is outside the vocabulary of " +
                    std::to_string(tokenizer.vocab_size()) + "; use ids from 0 to " +
                    std::to_string(tokenizer.vocab_size() - 1));
  return id;
}

int decode(const Arguments& arguments, const mpi::Comm&) {
  Options options("demist tokenizer decode MODEL [\"ID ID ...\"...]",
                  "Prints the text of each list of ids, or of each line of standard input.");
  options.positional("MODEL").rest("ID", 0);
  if (!options.parse(arguments)) return 0;
  const data::Tokenizer tokenizer(options.positionals().front());
  const std::vector<std::string> lists(options.positionals().begin() + 1,
                                       options.positionals().end());
  for_each_text(lists, [&](const std::string& list) {
    std::istringstream words(list);
    std::vector<std::int32_t> ids;
    for (std::string word; words >> word;) ids.push_back(id_of(word, tokenizer));
    std::printf("%s\n", tokenizer.decode(ids).c_str());
  });
  return 0;
}

}  // namespace

int tokenizer(const Arguments& arguments, const mpi::Comm& world) {
  return run_action("tokenizer", {{"train", train_model}, {"encode", encode}, {"decode", decode}},
                    arguments, world);
}

}  // namespace demist::cli
