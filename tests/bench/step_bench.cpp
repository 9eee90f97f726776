// Time of a whole MLM training step on random tokens, in the shape of torch_baseline.py beside it.
// Usage: step_bench [--layers L] [--d D] [--heads H] [--vocab V] [--batch B] [--seq T] [--steps N]
//                   [--micro-batches N] [--threads N] [--fp32] [--dropout P] [--fast]
// SPDX-License-Identifier: Apache-2.0
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <numeric>
#include <string>

#include "core/parallel_for.hpp"
#include "tests/bench/bench_source.hpp"
#include "worker/trainer.hpp"

namespace demist {
namespace {

using Options = std::map<std::string, std::string>;

Options parse(int argc, char** argv) {
  Options options{{"layers", "6"}, {"d", "384"},   {"heads", "6"},     {"vocab", "8192"},
                  {"batch", "32"}, {"seq", "128"}, {"steps", "8"},     {"threads", "2"},
                  {"fp32", "0"},   {"fast", "0"},  {"dropout", "0.1"}, {"micro-batches", "1"}};
  for (int i = 1; i < argc; ++i) {
    const std::string name = std::string(argv[i]).substr(2);
    if (!options.contains(name)) throw ConfigError("step_bench: unknown option --" + name);
    const bool flag = name == "fp32" || name == "fast";
    options[name] = flag ? "1" : i + 1 < argc ? argv[++i] : "";
  }
  return options;
}

TrainerConfig config_from(const Options& o) {
  TrainerConfig config;
  config.stage = "bench";
  config.model.layers = std::stoll(o.at("layers"));
  config.model.hidden = std::stoll(o.at("d"));
  config.model.ffn = 4 * config.model.hidden;
  config.model.heads = std::stoll(o.at("heads"));
  config.model.vocab = std::stoll(o.at("vocab"));
  config.model.hidden_dropout = config.model.attention_dropout = std::stof(o.at("dropout"));
  config.compute = o.at("fp32") == "1" ? DType::f32 : DType::bf16;
  config.reduction = o.at("fast") == "1" ? Reduction::fast : Reduction::exact;
  config.optimizer.schedule.kind = ScheduleKind::constant;
  return config;
}

int run(int argc, char** argv) {
  const Options o = parse(argc, argv);
  const mpi::Session session(&argc, &argv);
  use_threads(std::stoi(o.at("threads")), 0, 1);
  const TrainerConfig config = config_from(o);
  const auto source =
      std::make_shared<bench::RandomRows>(config.model.vocab, std::stoi(o.at("micro-batches")),
                                          std::stoll(o.at("batch")), std::stoll(o.at("seq")));
  Trainer trainer(session.world(), config, source, make_cpu_device());
  trainer.initialize();
  const int warm = 3, steps = std::stoi(o.at("steps")) + warm;
  std::vector<double> seconds;
  StepReport report;
  const std::vector<std::int32_t> all_to_one(static_cast<std::size_t>(source->micro_batches()), 0);
  trainer.announce({0, all_to_one});
  for (int s = 0; s < steps; ++s) {
    trainer.announce({s + 1, all_to_one});
    const auto start = std::chrono::steady_clock::now();
    report = trainer.run_step();
    if (s >= warm)
      seconds.push_back(
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  std::printf(
      "demist L%s d%s V%s %sx%s %s%s: %.0f tok/s, %.1f ms, %.0f model GFLOP/s (best %.0f), "
      "loss %.3f, peak %.2f GB\n",
      o.at("layers").c_str(), o.at("d").c_str(), o.at("vocab").c_str(), o.at("batch").c_str(),
      o.at("seq").c_str(), name_of(config.compute),
      config.reduction == Reduction::fast ? " FAST" : "",
      static_cast<double>(report.tokens) / median, median * 1e3, report.model_flops / median * 1e-9,
      report.model_flops / seconds.front() * 1e-9, report.loss,
      static_cast<double>(usage.ru_maxrss) * 1e-6);
  return 0;
}

}  // namespace
}  // namespace demist

int main(int argc, char** argv) {
  try {
    return demist::run(argc, argv);
  } catch (const demist::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
}
