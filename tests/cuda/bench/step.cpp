// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <functional>
#include <thread>

#include "core/parallel_for.hpp"
#include "kernels/cuda/cuda_backend.hpp"
#include "tests/cuda/bench/measurements.hpp"
#include "tests/cuda/bench/models.hpp"
#include "tests/cuda/bench/stopwatch.hpp"
#include "tests/cuda/bench/watched_backend.hpp"
#include "worker/parallel/cuda_device.hpp"

namespace demist::bench {
namespace {

constexpr std::int64_t kWarmSteps = 3;  // plans, workspaces, fixed-point scales
constexpr std::int64_t kObservedSteps = 2;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::size_t free_device_bytes() {
  std::size_t free = 0, total = 0;
  cuda::check(cudaMemGetInfo(&free, &total), "device memory");
  return free;
}

// A trainer with the parts of it that a measurement wants to see.
class Subject {
 public:
  Subject(const mpi::Comm& world, const Options& options)
      : model_(model_named(options.text("model"))),
        source_(std::make_shared<BenchSource>(
            model_.vocab, static_cast<std::int32_t>(options.number("micro-batches")),
            options.number("rows"), options.number("cols"))) {
    TrainerConfig config = trainer_config(model_, options.number("layers"));
    config.reduction = options.is_set("fast") ? Reduction::fast : Reduction::exact;
    start_["process"] = process_seconds();
    Device device;
    timed("device", [&] { device = make_cuda_device(world); });
    cuda_ = static_cast<cuda::CudaBackend*>(device.backend.get());
    auto watched = std::make_unique<WatchedBackend>(std::move(device.backend));
    watched_ = watched.get();
    device.backend = std::move(watched);
    free_before_ = free_device_bytes();
    timed("plan",
          [&] { trainer_ = std::make_unique<Trainer>(world, config, source_, std::move(device)); });
    timed("initialize", [&] { trainer_->initialize(); });
    announce();
    timed("first_step", [&] { step(); });
  }

  // One step; the next one's batches are made meanwhile.
  StepReport step() {
    announce();
    const StepReport report = trainer_->run_step();
    if (!report.applied()) throw NumericError("a step on random tokens is not applied");
    return report;
  }
  const NamedModel& model() const { return model_; }
  const nlohmann::json& start() const { return start_; }
  cuda::CudaBackend& cuda() { return *cuda_; }
  WatchedBackend& watched() { return *watched_; }
  std::size_t planned_bytes() const { return trainer_->planned_bytes(); }
  std::size_t measured_bytes() const { return free_before_ - free_device_bytes(); }

 private:
  void timed(const char* what, const std::function<void()>& body) {
    const double begin = now();
    body();
    if (cuda_ != nullptr) cuda_->stream().wait();
    start_[what] = now() - begin;
  }
  void announce() {
    trainer_->announce({announced_++, std::vector<std::int32_t>(
                                          static_cast<std::size_t>(source_->micro_batches()))});
  }

  const NamedModel& model_;
  std::shared_ptr<BenchSource> source_;
  nlohmann::json start_;  // seconds
  cuda::CudaBackend* cuda_ = nullptr;
  WatchedBackend* watched_ = nullptr;
  std::size_t free_before_ = 0;
  std::unique_ptr<Trainer> trainer_;
  std::int64_t announced_ = 0;
};

// The host is a step ahead of the device at most, so the time between returns is a step's time.
std::vector<double> step_seconds(Subject& subject, std::int64_t steps, StepReport& report) {
  for (std::int64_t i = 1; i < kWarmSteps; ++i) subject.step();
  std::vector<double> seconds;
  double last = now();
  for (std::int64_t i = 0; i < steps; ++i) {
    report = subject.step();
    seconds.push_back(now() - last);
    last += seconds.back();
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds;
}

void print_operations(const Subject& subject, const Stopwatch::Totals& totals, double steps) {
  for (const auto& [name, total] : totals)
    print({{"kind", "operation"},
           {"model", subject.model().name},
           {"name", name.first},
           {"shape", name.second},
           {"calls", static_cast<double>(total.calls) / steps},
           {"seconds", total.seconds / steps},
           {"bytes", total.bytes / steps},
           {"flops", total.flops / steps}});
}

// Conversions happen outside of steps: here is one of a matrix of the size of the activations.
void convert_once(Subject& subject, std::int64_t tokens) {
  Backend& backend = subject.watched();
  Tensor wide(DType::f32, tokens, subject.model().hidden, backend.memory());
  Tensor narrow(DType::bf16, tokens, subject.model().hidden, backend.memory());
  backend.zero(wide.view().data, static_cast<std::size_t>(wide.view().size()) * sizeof(float));
  backend.convert(narrow.view(), wide.view());
}

void measure_operations(Subject& subject, std::int64_t tokens) {
  Stopwatch stopwatch(subject.cuda().stream());
  convert_once(subject, tokens);  // the first call loads the kernel
  subject.watched().watch(&stopwatch);
  convert_once(subject, tokens);
  Stopwatch::Totals outside = stopwatch.take();
  std::erase_if(outside, [](const auto& entry) { return entry.first.first != "convert"; });
  for (std::int64_t i = 0; i < kObservedSteps; ++i) subject.step();
  subject.watched().watch(nullptr);
  print_operations(subject, stopwatch.take(), kObservedSteps);
  for (const auto& [name, total] : outside)
    print({{"kind", "operation"},
           {"model", subject.model().name},
           {"name", name.first},
           {"shape", name.second},
           {"calls", 0},  // in a step
           {"seconds", total.seconds},
           {"bytes", total.bytes},
           {"flops", total.flops}});
}

}  // namespace

void measure_step(const mpi::Comm& world, const Options& options) {
  use_threads(static_cast<int>(std::max(1u, std::thread::hardware_concurrency())), 0, 1);
  Subject subject(world, options);
  StepReport report;
  const std::vector<double> seconds = step_seconds(subject, options.number("steps"), report);
  print({{"kind", "step"},
         {"model", subject.model().name},
         {"layers", options.number("layers")},
         {"all_layers", subject.model().layers},
         {"rows", options.number("rows")},
         {"cols", options.number("cols")},
         {"micro_batches", options.number("micro-batches")},
         {"reduction", options.is_set("fast") ? "FAST" : "EXACT"},
         {"steps", seconds.size()},
         {"seconds", seconds[seconds.size() / 2]},
         {"seconds_best", seconds.front()},
         {"seconds_worst", seconds.back()},
         {"tokens", report.tokens},
         {"model_flops", report.model_flops},
         {"loss", report.loss},
         {"planned_bytes", subject.planned_bytes()},
         {"measured_bytes", subject.measured_bytes()},
         {"start", subject.start()}});
  if (options.is_set("operations"))
    measure_operations(subject, options.number("rows") * options.number("cols"));
}

}  // namespace demist::bench
