// One rank's part of a training run: state, a step, held-out loss, saving. Knows no policy.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/mpi.hpp"
#include "data/source.hpp"
#include "worker/checkpoint/background_save.hpp"
#include "worker/checkpoint/checkpoint.hpp"
#include "worker/config.hpp"
#include "worker/device.hpp"
#include "worker/memory_plan.hpp"
#include "worker/self_check.hpp"
#include "worker/step_guard.hpp"

namespace demist {

// What the coordinator tells every rank before a step.
struct StepPlan {
  std::int64_t step = 0;
  std::vector<std::int32_t> owner;  // data-parallel group of each micro-batch; any assignment gives
                                    // the same bits under Reduction::exact
  bool check = false;  // compute it on other ranks too, and compare; needs Reduction::exact
};

// What a step came to; equal on all ranks but for micro-batches and seconds.
struct StepReport {
  std::int64_t step = 0;
  double loss = 0;       // weighted sum / normalizer over the whole step; may be NaN
  double grad_norm = 0;  // global, before clipping; may be NaN
  double lr = 0;
  std::int64_t tokens = 0;  // real tokens of the step, all ranks
  double model_flops = 0;   // of the step, all ranks; formula in docs/benchmarks.md
  StepVerdict verdict =
      StepVerdict::good;  // else nothing was applied: only the count of steps grew
  bool applied() const { return verdict == StepVerdict::good; }
  bool exhausted = false;      // it was one bad step in a row too many
  std::int32_t rollbacks = 0;  // of this state's history
  std::int32_t rescaled = 0;   // times the step was redone with a larger fixed-point scale
  bool recomputed = false;     // not finite at first: a fault of a machine, if it was applied then
  std::optional<Corruption> corruption;  // found by a check; verdict `corrupt` if it does not pass
  double load_seconds = 0;               // the longest that a rank waited for its micro-batches
  std::int32_t micro_batches = 0;        // that this rank computed in
  double compute_seconds = 0;            // of its own: not waiting for other data groups
};

struct TrainerConfig {
  std::string stage;
  ModelConfig model;
  OptimizerConfig optimizer;
  GuardConfig guard;
  Reduction reduction = Reduction::exact;
  DType compute = DType::bf16;  // storage of activations and working matrices; masters are fp32
  std::uint64_t seed = 0;
  int tensor_parallel = 1;
  Recompute recompute = Recompute::none;
  AttentionPath attention = AttentionPath::own;  // what settle_attention() came to
  // Bound into every checkpoint; a resume with others is refused with CheckpointError.
  std::string recipe_hash, tokenizer_hash, data_hash;
  std::string noise_json;  // noise settings (mask id, schedule); must match on resume
};

class Trainer {
 public:
  // Collective over world. Plans and allocates everything, also for held_out_loss(*held_out).
  // Throws EnvironmentError, before it allocates, when there is not enough memory.
  // Sources are shared and read-only; held_out may be null.
  Trainer(const mpi::Comm& world, const TrainerConfig& config,
          std::shared_ptr<const data::Source> source, Device device,
          const data::Source* held_out = nullptr);
  ~Trainer();

  void initialize();  // N(0, 0.02) from Philox by logical position: the same for any layout
  // Parameters only (a new stage), or everything (resume). Collective.
  void load_model(const checkpoint::Checkpoint& checkpoint);
  void resume(const checkpoint::Checkpoint& checkpoint);

  std::int64_t step() const;  // finished steps
  const Backend& backend() const;
  ProductChooser* product_chooser();  // of the backend
  // Of the products of the stage's first step, those that another algorithm than the library's
  // first choice makes faster; on rank 0, which measures, nothing on other ranks. Collective.
  // Computes the micro-batches with the present weights, for nothing else. REQUIRES: the backend
  // has a product_chooser(), and no step is under way.
  std::vector<ProductPlan> measure_products(int candidates);
  // Announces a coming step's plan, so that its micro-batches are prepared ahead. In order.
  void announce(const StepPlan& plan);
  // Runs the oldest announced step. Collective. A step whose loss or gradient is not finite is
  // computed again, in case a machine was at fault; one that stays bad, or is a spike, is counted
  // and not applied. When the report says `exhausted`, the coordinator decides.
  StepReport run_step();
  // Forgets what was announced, and leaves `steps` steps of data out from here on.
  void skip_data(std::int64_t steps);
  // Everything as in an earlier checkpoint of this stage, but for the data that was left out.
  // Collective.
  void roll_back(const checkpoint::Checkpoint& checkpoint);
  // Called now and then while a step computes: for letters that are to travel in the meantime.
  void meanwhile(std::function<void()> look_after);
  // For tests of faults: called with the gradient of each of this rank's micro-batches, before what
  // is last of it is added: the embeddings.
  using Fault = std::function<void(std::int64_t step, std::span<float> gradient)>;
  void inject(Fault fault);
  // Mean loss over micro-batches (0, 0..count) of a held-out source, dropout off. Collective.
  double held_out_loss(const data::Source& source, std::int32_t count);
  // Begins to copy the state aside, and then to write it. Collective. REQUIRES: !save.in_flight().
  // `held_out_loss` is this state's, where it was measured.
  void begin_save(checkpoint::BackgroundSave& save, std::optional<double> held_out_loss) const;
  // What this rank would save now: `snapshot` is empty, or this trainer's from before.
  void copy_state(checkpoint::Snapshot& snapshot) const;
  void save(const std::filesystem::path& root, int keep_last) const;   // and waits; collective
  const MemoryPlan& memory_plan() const;                               // of this rank
  std::size_t planned_bytes() const { return memory_plan().total(); }  // all of it

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// A model for inference only (one rank or a tensor-parallel group): logits of wanted rows.
class InferenceModel {
 public:
  InferenceModel(const checkpoint::Checkpoint& checkpoint, DType compute,
                 std::unique_ptr<Backend> backend);
  ~InferenceModel();
  const ModelConfig& config() const;
  // ids [rows * cols] right-padded, length [rows]; logits fp32 [wanted, vocab].
  void logits(std::int64_t rows, std::int64_t cols, std::span<const std::int32_t> ids,
              std::span<const std::int32_t> length, std::span<const std::int32_t> wanted,
              std::span<float> logits);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace demist
