// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/score_stage.hpp"

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "orchestrator/stage_output.hpp"
#include "worker/evaluate/baseline.hpp"
#include "worker/evaluate/metrics.hpp"
#include "worker/generate/batching.hpp"

namespace demist {
namespace {

using nlohmann::ordered_json;

std::vector<generate::Request> requests_for(const Generator& generator, const data::Task& task,
                                            std::int32_t fixed_length) {
  std::vector<generate::Request> requests;
  for (std::size_t i = 0; i < task.examples.size(); ++i) {
    const data::TaskExample& example = task.examples[i];
    const auto wanted =
        fixed_length > 0 ? fixed_length : static_cast<std::int32_t>(example.response.size());
    const std::int32_t room = generator.longest_response(example.prompt.size());
    if (wanted > room)
      throw ConfigError("an answer of " + std::to_string(wanted) +
                        " tokens was asked for, and the " + std::to_string(example.prompt.size()) +
                        " tokens of prompt " + std::to_string(i + 1) + " leave room for " +
                        std::to_string(room) + "; ask for a shorter one");
    requests.push_back({example.prompt, wanted, i});
  }
  return requests;
}

// This rank's answers as JSON [[index, text], ...].
std::string decode_share(const mpi::Comm& world, Generator& generator,
                         const std::vector<generate::Request>& requests, const ScoreStage& work,
                         std::uint64_t seed, const AnswerObserver& observe) {
  generate::SamplerOptions sampler = work.sampler;
  sampler.seed = seed;
  ordered_json answers = ordered_json::array();
  const auto batches = generate::make_batches(requests, work.max_tokens);
  const auto ranks = static_cast<std::size_t>(world.size());
  std::size_t passed = 0;  // requests of this batch and of all before it, whoever answers them
  for (std::size_t b = 0; b < batches.size(); ++b) {
    passed += batches[b].size();
    if (b % ranks != static_cast<std::size_t>(world.rank())) continue;
    std::vector<generate::Request> batch;
    for (const std::size_t i : batches[b]) batch.push_back(requests[i]);
    const auto responses = generator.decode(batch, sampler);
    for (std::size_t i = 0; i < batch.size(); ++i)
      answers.push_back({batch[i].id, generator.tokenizer().decode(responses[i].ids)});
    const bool last = b + ranks >= batches.size();
    if (observe) observe(last ? requests.size() : passed, requests.size());
  }
  // Bytes that are no UTF-8 (a piece cut in two) become U+FFFD.
  return answers.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

std::string sample_lines(const data::Task& task, const TaskOutputs& answers) {
  std::string lines;
  for (std::size_t i = 0; i < answers.outputs.size(); ++i)
    lines += ordered_json{{"prompt", task.prompts[i]},
                          {"reference", task.references[i]},
                          {"output", answers.outputs[i]},
                          {"baseline", answers.baselines[i]}}
                 .dump(-1, ' ', false, ordered_json::error_handler_t::replace) +
             "\n";
  return lines;
}

}  // namespace

TaskOutputs answer_task(const mpi::Comm& world, Generator& generator, const data::Task& task,
                        const ScoreStage& work, std::uint64_t seed, const AnswerObserver& observe) {
  const auto requests = requests_for(generator, task, work.fixed_length);
  std::string mine;
  const AnswerObserver rank_zero = world.rank() == 0 ? observe : AnswerObserver{};
  mpi::together(world, "generate",
                [&] { mine = decode_share(world, generator, requests, work, seed, rank_zero); });
  TaskOutputs answers;
  const auto shares = world.gather(mine, 0);
  if (world.rank() != 0) return answers;
  answers.outputs.resize(requests.size());
  for (const std::string& share : shares)
    for (const auto& answer : ordered_json::parse(share))
      answers.outputs.at(answer.at(0).get<std::size_t>()) = answer.at(1).get<std::string>();
  for (std::size_t i = 0; i < requests.size(); ++i)
    answers.baselines.push_back(
        evaluate::baseline_response(work.baseline, task.prompts[i], task.references[i]));
  return answers;
}

double metric_score(Metric metric, const std::vector<std::string>& outputs,
                    const std::vector<std::string>& references) {
  return metric == Metric::bleu ? evaluate::bleu(outputs, references).score
                                : evaluate::rouge_l(outputs, references);
}

AnswerObserver show_answers(const std::string& stage, ProgressStyle style) {
  const auto line = std::make_shared<ProgressLine>(style, stderr);
  return [stage, line, begin = steady_seconds()](std::size_t done, std::size_t total) {
    const double now = steady_seconds();
    line->show(format_progress(AnswerProgress{stage, static_cast<std::int64_t>(done),
                                              static_cast<std::int64_t>(total), now - begin}),
               now, done == total);
  };
}

Score score_stage(const mpi::Comm& world, const RunConfig& run, const StageConfig& stage,
                  ProgressStyle progress) {
  const auto& work = std::get<ScoreStage>(stage.work);
  const TaskConfig& config = run.task(work.task);
  std::optional<Generator> generator;
  data::Task task;
  const fs::path model = final_checkpoint(world, run.stage(work.start_from));
  std::unique_ptr<Backend> backend = make_device(run.device, world).backend;
  mpi::together_alike(world, "open model and task of stage " + stage.name, [&] {
    generator.emplace(model, run.tokenizer.model, run.compute, std::move(backend));
    task = data::read_task(config.file, config.test_split, generator->tokenizer(),
                           config.max_length, work.limit);
    data::require_pairs(task, config.file, config.test_split, config.max_length);
  });
  log::info("stage " + stage.name + ": generating " + std::to_string(task.examples.size()) +
            " answers with " + generator->checkpoint().string());
  const TaskOutputs answers =
      answer_task(world, *generator, task, work, run.seed, show_answers(stage.name, progress));
  Score score;
  if (world.rank() != 0) return score;
  score.metric = work.metric == Metric::bleu ? "bleu" : "rouge_l";
  score.score = metric_score(work.metric, answers.outputs, task.references);
  score.baseline = metric_score(work.metric, answers.baselines, task.references);
  static constexpr const char* baselines[] = {"copy", "lead", "first_sentence"};
  score.baseline_name = baselines[static_cast<int>(work.baseline)];
  score.examples = static_cast<std::int64_t>(task.examples.size());
  score.left_out = static_cast<std::int64_t>(task.skipped);
  score.max_length = config.max_length;
  atomic_write(stage.folder / "samples.jsonl", sample_lines(task, answers));
  return score;
}

}  // namespace demist
