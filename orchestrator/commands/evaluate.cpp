// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdio>

#include "core/error.hpp"
#include "orchestrator/commands/commands.hpp"
#include "orchestrator/commands/decoding_options.hpp"
#include "orchestrator/progress.hpp"
#include "orchestrator/run_folder.hpp"
#include "orchestrator/score_stage.hpp"
#include "worker/evaluate/metrics.hpp"

namespace demist::cli {
namespace {

void print_scores(const char* label, const std::vector<std::string>& outputs,
                  const std::vector<std::string>& references) {
  std::printf("%-10s  ROUGE-L %6.2f  BLEU %6.2f\n", label, evaluate::rouge_l(outputs, references),
              evaluate::bleu(outputs, references).score);
}

data::TaskFile task_file(const Options& options) {
  data::TaskFile file;
  file.path = options.positionals()[1];
  file.prompt_field = options.get("prompt", file.prompt_field);
  file.response_field = options.get("response", file.response_field);
  file.split_field = options.get("split-field", "");
  file.prompt_template = options.get("template", file.prompt_template);
  return file;
}

}  // namespace

int evaluate(const Arguments& arguments, const mpi::Comm& world) {
  Options options("demist evaluate MODEL TASK [options]",
                  "Answers the prompts of a TSV or JSONL file with a trained model and prints\n"
                  "ROUGE-L and BLEU against its responses, beside those of trivial answers.");
  options.positional("MODEL")
      .positional("TASK")
      .value("prompt", "FIELD", "column (from 0) or JSON field of the prompt; default: 0")
      .value("response", "FIELD", "column or JSON field of the response; default: 1")
      .value("split-field", "FIELD", "column or JSON field of the split; default: all rows")
      .value("split", "NAME", "rows to use; default: test")
      .value("template", "TEXT", "text given to the model; default: {prompt}")
      .value("limit", "N", "rows to use; default: 0, all")
      .value("max-length", "N",
             "leave out rows of more tokens, prompt and response, as a recipe's max_length;\n"
             "default: what the model can hold")
      .value("length", "N", "tokens of an answer; default: oracle, as many as the response has")
      .flag("show", "print every prompt, reference and answer");
  add_decoding_options(options);
  if (!options.parse(arguments)) return 0;
  if (options.has("split") && !options.has("split-field"))
    throw ConfigError("--split " + options.get("split", "") +
                      " needs --split-field: the column or JSON field that says a row's split");
  ScoreStage work;
  work.sampler = sampler_options(options);
  if (options.get("length", "oracle") != "oracle")
    work.fixed_length = options.integer("length", 1, 1);
  Generator generator(find_model(options.positionals().front()), options.get("tokenizer", ""),
                      compute_option(options),
                      make_device(DeviceKind::automatic, mpi::Comm()).backend);
  const std::string split = options.get("split", "test");
  const data::TaskFile file = task_file(options);
  const std::int32_t most = generator.longest_response(0);
  const std::int32_t longest = std::min(most, options.integer("max-length", most, 4));
  const data::Task task = data::read_task(file, split, generator.tokenizer(), longest,
                                          options.integer<std::uint64_t>("limit", 0, 0));
  data::require_pairs(task, file, split, longest);
  const double begin = steady_seconds();
  const TaskOutputs answers = answer_task(world, generator, task, work, work.sampler.seed,
                                          show_answers("evaluate", detect_progress_style()));
  const double seconds = steady_seconds() - begin;
  for (std::size_t i = 0; options.has("show") && i < answers.outputs.size(); ++i)
    std::printf("prompt     %s\nreference  %s\noutput     %s\n\n", task.prompts[i].c_str(),
                task.references[i].c_str(), answers.outputs[i].c_str());
  std::printf("%zu examples in %s, %llu left out\n", answers.outputs.size(),
              format_duration(seconds).c_str(), static_cast<unsigned long long>(task.skipped));
  print_scores("model", answers.outputs, task.references);
  print_scores("lead", answers.baselines, task.references);
  print_scores("copy", task.prompts, task.references);
  return 0;
}

}  // namespace demist::cli
