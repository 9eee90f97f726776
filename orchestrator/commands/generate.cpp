// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <iostream>

#include "core/error.hpp"
#include "core/log.hpp"
#include "orchestrator/commands/commands.hpp"
#include "orchestrator/commands/decoding_options.hpp"
#include "orchestrator/generation.hpp"

namespace demist::cli {
namespace {

void append_lines(std::istream& in, std::vector<std::string>& prompts) {
  for (std::string line; std::getline(in, line);) prompts.push_back(line);
}

std::vector<std::string> read_prompts(const Options& options) {
  std::vector<std::string> prompts(options.positionals().begin() + 1, options.positionals().end());
  const auto file = options.find("file");
  if (file && *file != "-") {
    std::ifstream in(*file);
    if (!in) throw DataError(*file + ": cannot be read; name a text file, a prompt a line");
    append_lines(in, prompts);
  }
  if ((file && *file == "-") || (!file && prompts.empty())) append_lines(std::cin, prompts);
  return prompts;
}

// One state of the canvas as text. The tokenizer shows a masked position as "<mask>"; a light block
// is easier on the eye.
std::string draw(const data::Tokenizer& tokenizer, const std::vector<std::int32_t>& response) {
  std::string text = tokenizer.decode(response);
  const std::string mask = "<mask>";
  for (std::size_t at; (at = text.find(mask)) != std::string::npos;)
    text.replace(at, mask.size(), "\u2591");
  return text;
}

// Draws every step: over the last one on a terminal, else below it.
generate::StepObserver step_observer(const data::Tokenizer& tokenizer) {
  const bool terminal = ::isatty(STDERR_FILENO) == 1;
  return [&tokenizer, terminal](std::int32_t step,
                                const std::vector<std::vector<std::int32_t>>& responses) {
    const std::string text = draw(tokenizer, responses.front());
    if (terminal)
      std::fprintf(stderr, "\r\033[K%3d  %s", step, text.c_str());
    else
      std::fprintf(stderr, "%3d  %s\n", step, text.c_str());
    std::fflush(stderr);
    if (terminal) ::usleep(80000);  // microseconds: slow enough to see
  };
}

}  // namespace

int generate(const Arguments& arguments, const mpi::Comm&) {
  Options options("demist generate MODEL [PROMPT...] [options]",
                  "Answers each prompt with a trained model (a checkpoint or a folder of them).\n"
                  "Prompts come from the command line, from --file, or from standard input, one a\n"
                  "line; answers go to standard output, one a line.");
  options.positional("MODEL", 1, -1)
      .value("file", "FILE", "prompts, one a line; \"-\" is standard input")
      .value("length", "N", "tokens of an answer; default: 32")
      .flag("show-steps", "draw the denoising of each answer on standard error");
  add_decoding_options(options);
  if (!options.parse(arguments)) return 0;
  const generate::SamplerOptions sampler = sampler_options(options);
  const auto length = static_cast<std::int32_t>(options.integer("length", 32, 1));
  Generator generator(options.positionals().front(), options.get("tokenizer", ""),
                      compute_option(options));
  const generate::StepObserver observe =
      options.has("show-steps") ? step_observer(generator.tokenizer()) : generate::StepObserver{};
  std::uint64_t id = 0;
  for (const std::string& prompt : read_prompts(options)) {
    generate::Request request{generator.tokenizer().encode(prompt), length, id++};
    const std::int32_t room = generator.longest_response(request.prompt.size());
    if (room < length)
      throw DataError("prompt " + std::to_string(id) + " has " +
                      std::to_string(request.prompt.size()) + " tokens and leaves room for " +
                      std::to_string(room) + "; shorten it, or lower --length");
    const auto responses = generator.decode({request}, sampler, observe);
    if (observe) std::fputs("\n", stderr);
    std::printf("%s\n", generator.tokenizer().decode(responses.front().ids).c_str());
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace demist::cli
