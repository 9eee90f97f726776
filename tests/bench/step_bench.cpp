// Time of a whole MLM training step on random tokens, in the shape of torch_baseline.py beside it.
// Usage: step_bench [--layers L] [--d D] [--heads H] [--vocab V] [--batch B] [--seq T] [--steps N]
//                   [--micro-batches N] [--threads N] [--fp32] [--dropout P] [--fast]
// SPDX-License-Identifier: Apache-2.0
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "core/parallel_for.hpp"
#include "tests/bench/synthetic.hpp"
#include "worker/trainer.hpp"

namespace demist::bench {
namespace {

TrainerConfig config_from(const Options& o) {
  TrainerConfig config;
  config.stage = "bench";
  config.model.layers = o.number("layers");
  config.model.hidden = o.number("d");
  config.model.ffn = 4 * config.model.hidden;
  config.model.heads = o.number("heads");
  config.model.vocab = o.number("vocab");
  config.model.hidden_dropout = config.model.attention_dropout = std::stof(o.text("dropout"));
  config.compute = o.is_set("fp32") ? DType::f32 : DType::bf16;
  config.reduction = o.is_set("fast") ? Reduction::fast : Reduction::exact;
  config.optimizer.schedule.kind = ScheduleKind::constant;
  return config;
}

int run(int argc, char** argv) {
  Options o({{"layers", "6"},
             {"d", "384"},
             {"heads", "6"},
             {"vocab", "8192"},
             {"batch", "32"},
             {"seq", "128"},
             {"steps", "8"},
             {"threads", "2"},
             {"dropout", "0.1"},
             {"micro-batches", "1"}},
            {"fp32", "fast"});
  o.parse(argc, argv, 1);
  const mpi::Session session(&argc, &argv);
  use_threads(static_cast<int>(o.number("threads")), 0, 1);
  const TrainerConfig config = config_from(o);
  const auto source = std::make_shared<BenchSource>(
      config.model.vocab, static_cast<std::int32_t>(o.number("micro-batches")), o.number("batch"),
      o.number("seq"));
  Trainer trainer(session.world(), config, source, make_cpu_device());
  trainer.initialize();
  const std::int64_t warm = 3, steps = o.number("steps") + warm;
  std::vector<double> seconds;
  StepReport report;
  const std::vector<std::int32_t> all_to_one(static_cast<std::size_t>(source->micro_batches()), 0);
  trainer.announce({0, all_to_one});
  for (std::int64_t s = 0; s < steps; ++s) {
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
      o.text("layers").c_str(), o.text("d").c_str(), o.text("vocab").c_str(),
      o.text("batch").c_str(), o.text("seq").c_str(), name_of(config.compute),
      config.reduction == Reduction::fast ? " FAST" : "",
      static_cast<double>(report.tokens) / median, median * 1e3, report.model_flops / median * 1e-9,
      report.model_flops / seconds.front() * 1e-9, report.loss,
      static_cast<double>(usage.ru_maxrss) * 1e-6);
  return 0;
}

}  // namespace
}  // namespace demist::bench

int main(int argc, char** argv) {
  try {
    return demist::bench::run(argc, argv);
  } catch (const demist::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
}
