// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <cstdio>
#include <functional>

#include "core/error.hpp"
#include "core/log.hpp"
#include "data/reader.hpp"
#include "orchestrator/commands/commands.hpp"
#include "orchestrator/commands/decoding_options.hpp"
#include "orchestrator/generation.hpp"
#include "orchestrator/run_folder.hpp"
#include "worker/device.hpp"

namespace demist::cli {
namespace {

using PromptSink = std::function<void(const std::string& prompt)>;

bool reads_stdin(const Options& options) {
  const auto file = options.find("file");
  return file ? *file == "-" : options.positionals().size() == 1;
}

void each_prompt(const Options& options, const PromptSink& sink) {
  for (std::size_t i = 1; i < options.positionals().size(); ++i) sink(options.positionals()[i]);
  if (options.positionals().size() > 1 && !options.has("file")) return;
  data::LineReader input(options.get("file", "-"));
  for (std::string line; input.next(line);) sink(line);
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

// Collects prompts and answers them `group` at a time; an answer does not depend on its company.
class Answers {
 public:
  Answers(Generator& generator, const generate::SamplerOptions& sampler, std::int32_t length,
          std::size_t group)
      : generator_(generator), sampler_(sampler), length_(length), group_(group) {}

  void add(const std::string& prompt, const generate::StepObserver& observe) {
    if (!data::is_valid_utf8(prompt))
      throw DataError("prompt " + std::to_string(next_id_ + 1) +
                      " is not valid UTF-8; convert it, or name a text file");
    pending_.push_back({generator_.tokenizer().encode(prompt), length_, next_id_++});
    const std::size_t tokens = pending_.back().prompt.size();
    const std::int32_t room = generator_.longest_response(tokens);
    if (room < length_)
      throw DataError("prompt " + std::to_string(next_id_) + " has " + std::to_string(tokens) +
                      " tokens and leaves room for " + std::to_string(room) +
                      "; shorten it, or lower --length");
    if (pending_.size() == group_) flush(observe);
  }

  void flush(const generate::StepObserver& observe) {
    if (pending_.empty()) return;
    for (const generate::Response& response : generator_.decode(pending_, sampler_, observe)) {
      if (observe) std::fputs("\n", stderr);
      std::printf("%s\n", generator_.tokenizer().decode(response.ids).c_str());
    }
    std::fflush(stdout);
    pending_.clear();
  }
  std::uint64_t count() const { return next_id_; }

 private:
  Generator& generator_;
  const generate::SamplerOptions sampler_;
  const std::int32_t length_;
  const std::size_t group_;
  std::vector<generate::Request> pending_;
  std::uint64_t next_id_ = 0;
};

}  // namespace

int generate(const Arguments& arguments, const mpi::Comm&) {
  Options options(
      "demist generate MODEL [PROMPT...] [options]",
      "Answers each prompt with a trained model: a checkpoint, a stage or a run folder.\n"
      "Prompts come from the command line, from --file, or from standard input, one a\n"
      "line; answers go to standard output, one a line.");
  options.positional("MODEL")
      .rest("PROMPT", 0)
      .value("file", "FILE", "prompts, one a line, gzip and zstd too; \"-\" is standard input")
      .value("length", "N", "tokens of an answer; default: 32")
      .flag("show-steps", "draw the denoising of each answer on standard error");
  add_decoding_options(options);
  if (!options.parse(arguments)) return 0;
  const generate::SamplerOptions sampler = sampler_options(options);
  const auto length = options.integer("length", 32, 1);
  Generator generator(find_model(options.positionals().front()), options.get("tokenizer", ""),
                      compute_option(options),
                      make_device(DeviceKind::automatic, mpi::Comm()).backend);
  const generate::StepObserver observe =
      options.has("show-steps") ? step_observer(generator.tokenizer()) : generate::StepObserver{};
  // Someone who types, or watches the steps, wants each answer at once.
  const bool one_by_one = observe || (reads_stdin(options) && ::isatty(STDIN_FILENO) == 1);
  Answers answers(generator, sampler, length, one_by_one ? 1 : 64);
  each_prompt(options, [&](const std::string& prompt) { answers.add(prompt, observe); });
  answers.flush(observe);
  if (answers.count() == 0) log::warning("there is no prompt to answer");
  return 0;
}

}  // namespace demist::cli
