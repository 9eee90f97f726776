// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "core/checksum.hpp"
#include "kernels/cuda/cuda_backend.hpp"
#include "tests/cuda/bench/measurements.hpp"
#include "tests/cuda/bench/models.hpp"
#include "tests/cuda/bench/watched_backend.hpp"
#include "worker/parallel/cuda_device.hpp"

namespace demist::bench {
namespace {

// Matrix products on a stream of their own, while another backend works.
class Neighbour {
 public:
  explicit Neighbour(bool tiny)
      : size_(tiny ? 32 : 2048),
        numbers_(static_cast<std::size_t>(size_ * size_), backend_.memory()),
        out_(numbers_.size(), backend_.memory()) {
    backend_.zero(numbers_.data(), numbers_.bytes());
  }
  // Returns at once.
  void work() {
    const auto a = matrix(std::as_const(numbers_).data(), size_, size_);
    backend_.gemm(matrix(out_.data(), size_, size_), a, a, Transpose::b);
    backend_.copy(numbers_.data(), out_.data(), out_.bytes());
  }

 private:
  cuda::CudaBackend backend_;
  std::int64_t size_;
  Buffer<bf16> numbers_, out_;
};

// A checksum of what every operation wrote, in the order of the calls.
class Fingerprints final : public Observer {
 public:
  struct Print {
    std::string operation;
    std::uint64_t bits;
  };
  Fingerprints(Backend& backend, Neighbour* neighbour) : backend_(backend), neighbour_(neighbour) {}
  void before(const Operation&) override {
    if (neighbour_ != nullptr) neighbour_->work();
  }
  void after(const Operation& operation) override {
    std::uint64_t bits = 0;
    for (const Written& written : operation.written) bits = bits * 31 + checksum(written);
    prints_.push_back({operation.name + ' ' + operation.shape, bits});
  }
  const std::vector<Print>& prints() const { return prints_; }

 private:
  // Without what lies between the rows.
  std::uint64_t checksum(const Written& written) {
    if (written.extent() == 0) return 0;
    host_.resize(std::max(host_.size(), written.extent()));
    backend_.download(host_.data(), written.data, written.extent());
    for (std::size_t row = 1; row < written.rows; ++row)
      std::memmove(&host_[row * written.bytes], &host_[row * written.pitch], written.bytes);
    return xxh3_64(std::span(host_).first(written.rows * written.bytes));
  }

  Backend& backend_;
  Neighbour* neighbour_;
  std::vector<std::byte> host_;
  std::vector<Print> prints_;
};

struct Run {
  DType compute;
  NormPlacement norm;
  std::int32_t micro_batches;  // one and several take different ways through EXACT
  Reduction reduction;
};

std::vector<Fingerprints::Print> trace(const mpi::Comm& world, const Run& run, bool tiny,
                                       Neighbour* neighbour) {
  TrainerConfig config = trainer_config(model_named(tiny ? "tiny" : "base"), tiny ? 1 : 2);
  config.compute = run.compute;
  config.model.norm = run.norm;
  config.reduction = run.reduction;
  config.seed = 5;
  if (!tiny) config.model.vocab = 30001;  // some waves of blocks; not a multiple of anything
  Device device = make_cuda_device(world);
  auto watched = std::make_unique<WatchedBackend>(std::move(device.backend));
  Fingerprints fingerprints(watched->inner(), neighbour);
  watched->watch(&fingerprints);
  device.backend = std::move(watched);
  const auto source = std::make_shared<BenchSource>(config.model.vocab, run.micro_batches,
                                                    tiny ? 2 : 8, tiny ? 16 : 512);
  Trainer trainer(world, config, source, std::move(device));
  trainer.initialize();
  for (std::int64_t step = 0; step < (tiny ? 1 : 2); ++step) {
    trainer.announce(
        {step, std::vector<std::int32_t>(static_cast<std::size_t>(run.micro_batches))});
    if (!trainer.run_step().applied()) throw NumericError("a step is not applied");
  }
  return fingerprints.prints();
}

// Where two traces part, or what both hold.
bool compare(const std::vector<Fingerprints::Print>& alone,
             const std::vector<Fingerprints::Print>& busy) {
  ensure(alone.size() == busy.size(), "two runs of one recipe have the same operations");
  for (std::size_t i = 0; i < alone.size(); ++i) {
    if (alone[i].bits == busy[i].bits) continue;
    std::printf("operation %zu of %zu has other bits beside a busy stream: %s\n", i, alone.size(),
                alone[i].operation.c_str());
    return false;
  }
  return true;
}

}  // namespace

bool compare_runs(const mpi::Comm& world, bool tiny) {
  bool same = true;
  std::size_t compared = 0;
  std::set<std::string> missing = WatchedBackend::operations();
  // Together these have every operation.
  for (const Run& run : {Run{DType::bf16, NormPlacement::post, 2, Reduction::exact},
                         Run{DType::bf16, NormPlacement::pre, 1, Reduction::exact},
                         Run{DType::f32, NormPlacement::post, 1, Reduction::fast}}) {
    Neighbour neighbour(tiny);
    const auto alone = trace(world, run, tiny, nullptr);
    same &= compare(alone, trace(world, run, tiny, &neighbour));
    compared += alone.size();
    for (const auto& print : alone)
      missing.erase(print.operation.substr(0, print.operation.find(' ')));
  }
  print({{"kind", "repeat"}, {"operations", compared}, {"same_bits", same}, {"not_run", missing}});
  return same && missing.empty();
}

}  // namespace demist::bench
