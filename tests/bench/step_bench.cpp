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
#include "core/philox.hpp"
#include "worker/trainer.hpp"

namespace demist {
namespace {

// Full rows; a fixed share of positions, chosen at random, are targets.
class BenchSource final : public data::Source {
 public:
  BenchSource(std::int64_t vocab, std::int32_t micro_batches, std::int64_t rows, std::int64_t cols)
      : vocab_(vocab), micro_batches_(micro_batches), rows_(rows), cols_(cols) {}
  std::int32_t micro_batches() const override { return micro_batches_; }
  std::int64_t max_tokens() const override { return rows_ * cols_; }
  std::int64_t max_targets() const override { return max_tokens() * 15 / 100; }

  data::MicroBatch make(std::int64_t step, std::int32_t index) const override {
    const std::int64_t batch = step * micro_batches_ + index;
    const std::uint64_t key = stream_key(1, "bench", static_cast<std::uint64_t>(batch));
    const std::int64_t n = max_tokens(), m = max_targets();
    data::MicroBatch b;
    b.step = step;
    b.rows = rows_;
    b.cols = cols_;
    std::vector<std::pair<std::uint32_t, std::int32_t>> order;
    for (std::int64_t i = 0; i < n; ++i) {
      const auto words = draw(key, static_cast<std::uint64_t>(i), 0);
      b.ids.push_back(static_cast<std::int32_t>(
          5 + uniform_int(words, static_cast<std::uint64_t>(vocab_ - 5))));
      b.positions.push_back(static_cast<std::int32_t>(i % cols_ + 2));
      order.emplace_back(words.v[0], static_cast<std::int32_t>(i));
    }
    b.key_begin.assign(static_cast<std::size_t>(n), 0);
    b.key_end.assign(static_cast<std::size_t>(n), static_cast<std::int32_t>(cols_));
    for (std::int64_t r = 0; r < rows_; ++r)
      b.sample.push_back(static_cast<std::uint64_t>(batch * rows_ + r));
    std::sort(order.begin(), order.end());
    for (std::int64_t i = 0; i < m; ++i)
      b.target_row.push_back(order[static_cast<std::size_t>(i)].second);
    std::sort(b.target_row.begin(), b.target_row.end());
    for (const std::int32_t row : b.target_row) {
      b.target_id.push_back(b.ids[static_cast<std::size_t>(row)]);
      b.ids[static_cast<std::size_t>(row)] = 4;
    }
    b.weight.assign(static_cast<std::size_t>(m), 1);
    b.smooth.assign(static_cast<std::size_t>(m), 0);
    b.normalizer = m * micro_batches_;
    b.real_tokens = n;
    return b;
  }

 private:
  std::int64_t vocab_;
  std::int32_t micro_batches_;
  std::int64_t rows_, cols_;
};

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
      std::make_shared<BenchSource>(config.model.vocab, std::stoi(o.at("micro-batches")),
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
