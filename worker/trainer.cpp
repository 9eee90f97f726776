// SPDX-License-Identifier: Apache-2.0
#include "worker/trainer.hpp"

#include <bit>
#include <chrono>
#include <cmath>
#include <deque>
#include <exception>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "core/checksum.hpp"
#include "core/philox.hpp"
#include "worker/model/model.hpp"
#include "worker/optimizer/gradient_reducer.hpp"
#include "worker/optimizer/sharded_adamw.hpp"
#include "worker/parallel/communicator.hpp"
#include "worker/step_totals.hpp"

namespace demist {
namespace {

// A step that overflows its scales twice in a row has gradients that grow 2^20-fold a try.
constexpr int kMaxRescales = 8;

// A small training set's largest micro-batch may be smaller than the held-out set's.
MemoryRequest request_of(const TrainerConfig& config, const ParallelLayout& layout,
                         const Backend& backend, const data::Source& source,
                         const data::Source* held_out) {
  MemoryRequest request{config.model,
                        config.compute,
                        config.reduction,
                        config.recompute,
                        layout,
                        source.micro_batches(),
                        source.max_tokens(),
                        source.max_rows(),
                        source.max_targets(),
                        !backend.on_host(),
                        data::whole_columns(source, held_out),
                        config.attention};
  if (held_out == nullptr) return request;
  request.tokens = std::max(request.tokens, held_out->max_tokens());
  request.sequences = std::max(request.sequences, held_out->max_rows());
  request.targets = std::max(request.targets, held_out->max_targets());
  return request;
}

// A step as the rank's heartbeat shows it.
class WatchedStep {
 public:
  WatchedStep(const mpi::Comm& world, std::int64_t step) : heartbeat_(world.heartbeat()) {
    if (heartbeat_ != nullptr) heartbeat_->begin_step(step);
  }
  ~WatchedStep() {
    if (heartbeat_ != nullptr) heartbeat_->end_step();
  }
  WatchedStep(const WatchedStep&) = delete;
  WatchedStep& operator=(const WatchedStep&) = delete;

 private:
  Heartbeat* heartbeat_;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

struct Trainer::Impl {
  Impl(const mpi::Comm& comm, const TrainerConfig& trainer_config,
       std::shared_ptr<const data::Source> steps, Device device, const data::Source* held_out)
      : world(comm),
        config(trainer_config),
        source(std::move(steps)),
        backend(std::move(device.backend)),
        groups(make_parallel_groups(comm, config.tensor_parallel, device.communicator_over)),
        request(request_of(config, groups.layout, *backend, *source, held_out)),
        memory(require_memory(comm, request, backend->memory())),
        table(config.model, groups.layout.tensor_size, groups.layout.tensor_rank,
              ParameterTable::vocabulary_unit(!backend->on_host())),
        optimizer(config.model, table, *backend, groups, config.compute, config.optimizer),
        model(config.model, table, *backend, *groups.tensor, config.compute,
              {request.tokens, request.targets, true, config.recompute}),
        grads(static_cast<std::size_t>(table.size()), backend->memory()),
        shard_grads(static_cast<std::size_t>(optimizer.shard_size()), backend->memory()),
        reducer(config.reduction == Reduction::exact
                    ? make_exact_reducer(table, *backend, groups, source->micro_batches())
                    : make_fast_reducer(table, *backend, groups)),
        prefetcher(*source, 2 * static_cast<std::size_t>(source->micro_batches()) + 2),
        guard(config.guard) {
    if (AttentionChooser* chooser = backend->attention_chooser()) chooser->use(config.attention);
    backend->prepare(step_shape(request, table));
    // Padding between tensors is never written by a kernel and must count as zero everywhere.
    backend->zero(grads.data(), grads.bytes());
    backend->zero(shard_grads.data(), shard_grads.bytes());
    grad_views = make_views(config.model, table, grads.data(), DType::f32,
                            grads.data() + table.matrices_end());
  }

  struct Announced {
    StepPlan plan;
    std::int64_t data_step;  // of what it is made of
    std::size_t own;         // micro-batches of this group
  };
  std::vector<data::MicroBatch> load(const Announced& plan, StepReport& report);
  std::vector<data::MicroBatch> load_turn(const Announced& plan, int turn) const;
  GradientReducer::Result compute(const Announced& plan,
                                  const std::vector<data::MicroBatch>& batches, StepTotals& totals,
                                  StepReport& report);
  GradientReducer::Result compute_checked(const Announced& plan,
                                          const std::vector<data::MicroBatch>& batches,
                                          StepTotals& totals, StepReport& report);
  StepDigest digest(GradientReducer::Result result, const StepTotals& totals, double loss);
  StepTotals accumulate(const std::vector<data::MicroBatch>& batches, std::int64_t data_step);
  void finish_step(std::span<const float> gradient, StepTotals& totals, StepReport& report);
  void check_identity(const checkpoint::Checkpoint& from) const;
  checkpoint::Meta meta() const;

  const mpi::Comm& world;
  const TrainerConfig config;
  std::shared_ptr<const data::Source> source;
  std::unique_ptr<Backend> backend;
  ParallelGroups groups;
  const MemoryRequest request;
  const MemoryPlan memory;
  ParameterTable table;
  ShardedAdamW optimizer;
  Model model;
  Buffer<float> grads, shard_grads;
  ModelViews grad_views;
  std::unique_ptr<GradientReducer> reducer;
  data::Prefetcher prefetcher;
  std::deque<Announced> announced;
  StepGuard guard;
  Fault fault;
  std::function<void()> meanwhile = [] {};
  std::optional<std::vector<StepDigest::Part>> parts;  // of each micro-batch, for a check
  std::int64_t step = 0;
  std::int64_t data_offset = 0;  // steps of data that were left out
  std::int32_t rollbacks = 0;
};

Trainer::Trainer(const mpi::Comm& world, const TrainerConfig& config,
                 std::shared_ptr<const data::Source> source, Device device,
                 const data::Source* held_out)
    : impl_(std::make_unique<Impl>(world, config, std::move(source), std::move(device), held_out)) {
}
Trainer::~Trainer() {
  // Where an error ends this rank, the device may be in collectives to which other ranks no longer
  // come, and buffers wait for the device before they go.
  if (std::uncaught_exceptions() == 0) return;
  impl_->groups.tensor->abort();
  impl_->groups.data->abort();
}

std::int64_t Trainer::step() const { return impl_->step; }
const Backend& Trainer::backend() const { return *impl_->backend; }
ProductChooser* Trainer::product_chooser() { return impl_->backend->product_chooser(); }
const MemoryPlan& Trainer::memory_plan() const { return impl_->memory; }

// Micro-batches of one shape ask for the same products, but for the few rows of the head's last
// chunk, which nobody sees again.
std::vector<ProductPlan> Trainer::measure_products(int candidates) {
  Impl& t = *impl_;
  ProductChooser* const chooser = t.backend->product_chooser();
  ensure(chooser != nullptr, "this device's products have one way each");
  const bool takes_part = t.groups.layout.data_rank == 0, measures = t.world.rank() == 0;
  std::vector<data::MicroBatch> batches;
  mpi::together(t.world, "load data", [&] {
    std::set<std::pair<std::int64_t, std::int64_t>> seen;
    for (std::int32_t i = 0; takes_part && i < t.source->micro_batches(); ++i) {
      data::MicroBatch batch = data::make_whole(*t.source, 0, i);
      if (seen.emplace(batch.rows, batch.cols).second) batches.push_back(std::move(batch));
    }
  });
  if (measures) chooser->begin_measuring(candidates);
  const std::uint64_t key = stream_key(t.config.seed, "dropout/" + t.config.stage, 0);
  for (const data::MicroBatch& batch : batches) {
    t.model.forward_backward(t.optimizer.weights(), t.grad_views, batch, key);
    t.model.take_loss();
  }
  return measures ? chooser->end_measuring() : std::vector<ProductPlan>();
}

void Trainer::initialize() {
  impl_->optimizer.initialize(impl_->config.seed);
  impl_->optimizer.publish();
}

void Trainer::load_model(const checkpoint::Checkpoint& from) {
  Impl& t = *impl_;
  mpi::together_alike(t.world, "load model", [&] {
    t.check_identity(from);
    t.optimizer.read(from, false);
  });
  t.optimizer.publish();
}

void Trainer::resume(const checkpoint::Checkpoint& from) {
  Impl& t = *impl_;
  mpi::together_alike(t.world, "resume", [&] {
    t.check_identity(from);
    const checkpoint::Meta& meta = from.meta();
    const auto must_match = [&](const std::string& saved, const std::string& now,
                                const char* what) {
      if (saved != now)
        throw CheckpointError(from.directory().string() + " was saved with another " + what +
                              "; resume with the recipe it was made by, or remove the stage's "
                              "checkpoints to start it again");
    };
    must_match(meta.stage, t.config.stage, "stage");
    must_match(meta.recipe_hash, t.config.recipe_hash, "recipe");
    must_match(meta.data_hash, t.config.data_hash, "corpus or task");
    const auto state = nlohmann::json::parse(meta.state_json, nullptr, false);
    must_match(state.is_object() ? state.value("noise", "") : "", t.config.noise_json, "noise");
    t.optimizer.read(from, true);
    t.reducer->set_state(state.value("reducer", "{}"));
    if (state.contains("guard")) t.guard.set_state(state.value("guard", ""));
    t.data_offset = state.value("data_offset", std::int64_t{0});
    t.rollbacks = state.value("rollbacks", 0);
    t.step = meta.step;
  });
  t.optimizer.publish();
}

void Trainer::skip_data(std::int64_t steps) {
  Impl& t = *impl_;
  for (const Impl::Announced& plan : t.announced)
    for (std::size_t i = 0; i < plan.own; ++i) (void)mpi::attempt([&] { t.prefetcher.take(); });
  t.announced.clear();
  t.data_offset += steps;
}

void Trainer::roll_back(const checkpoint::Checkpoint& to) {
  Impl& t = *impl_;
  const std::int64_t data_offset = t.data_offset;
  const std::int32_t rollbacks = t.rollbacks + 1;
  resume(to);
  t.data_offset = data_offset;
  t.rollbacks = rollbacks;
}

void Trainer::meanwhile(std::function<void()> look_after) {
  impl_->meanwhile = std::move(look_after);
}

void Trainer::inject(Fault fault) { impl_->fault = std::move(fault); }

void Trainer::Impl::check_identity(const checkpoint::Checkpoint& from) const {
  const ModelConfig saved = model_config_from_json(from.meta().model_json);
  const auto same = [&](auto member) { return saved.*member == config.model.*member; };
  if (!(same(&ModelConfig::layers) && same(&ModelConfig::hidden) && same(&ModelConfig::ffn) &&
        same(&ModelConfig::heads) && same(&ModelConfig::vocab) && same(&ModelConfig::positions) &&
        same(&ModelConfig::norm)))
    throw CheckpointError(from.directory().string() + " holds another model: " +
                          from.meta().model_json + "; the recipe says " + to_json(config.model));
  if (from.meta().tokenizer_hash != config.tokenizer_hash)
    throw CheckpointError(from.directory().string() +
                          " was trained with another tokenizer: its ids mean other pieces");
}

void Trainer::announce(const StepPlan& plan) {
  const std::int64_t data_step = plan.step + impl_->data_offset;
  std::size_t own = 0;
  for (std::size_t i = 0; i < plan.owner.size(); ++i) {
    if (plan.owner[i] != impl_->groups.layout.data_rank) continue;
    impl_->prefetcher.announce(data_step, static_cast<std::int32_t>(i));
    ++own;
  }
  impl_->announced.push_back({plan, data_step, own});
}

StepReport Trainer::run_step() {
  Impl& t = *impl_;
  ensure(!t.announced.empty() && t.announced.front().plan.step == t.step, "steps run in order");
  const Impl::Announced plan = std::move(t.announced.front());
  t.announced.pop_front();
  const WatchedStep watched(t.world, t.step);
  StepReport report;
  report.step = t.step;
  const std::vector<data::MicroBatch> batches = t.load(plan, report);
  StepTotals totals;
  const auto result = plan.plan.check ? t.compute_checked(plan, batches, totals, report)
                                      : t.compute(plan, batches, totals, report);
  if (report.corruption && !report.corruption->passing)
    report.verdict = StepVerdict::corrupt;
  else if (result == GradientReducer::Result::ready)
    t.finish_step(t.shard_grads.span(), totals, report);
  else
    report.verdict = StepVerdict::not_finite;
  t.guard.record(report.verdict, report.loss, report.grad_norm);
  report.exhausted = t.guard.exhausted();
  report.rollbacks = t.rollbacks;
  ++t.step;
  return report;
}

// All ranks meet here, but to wait for one that is still in the step before is no wait for data.
std::vector<data::MicroBatch> Trainer::Impl::load(const Announced& plan, StepReport& report) {
  std::vector<data::MicroBatch> batches;
  std::int64_t nanoseconds = 0;
  mpi::together(world, "load data", [&] {
    const auto start = std::chrono::steady_clock::now();
    for (std::size_t i = 0; i < plan.own; ++i) batches.push_back(prefetcher.take());
    nanoseconds = static_cast<std::int64_t>(1e9 * seconds_since(start));
  });
  report.load_seconds = 1e-9 * static_cast<double>(world.all_reduce_max(nanoseconds));
  return batches;
}

// The micro-batches that fall to this group when every one moves `turn` groups on. They are made
// here and now, not ahead: few steps are checked, and each copy is made for itself.
std::vector<data::MicroBatch> Trainer::Impl::load_turn(const Announced& plan, int turn) const {
  const ParallelLayout& at = groups.layout;
  std::vector<data::MicroBatch> batches;
  mpi::together(world, "load data", [&] {
    for (std::size_t i = 0; i < plan.plan.owner.size(); ++i)
      if (group_of_turn(plan.plan.owner[i], turn, at.data_size) == at.data_rank)
        batches.push_back(data::make_whole(*source, plan.data_step, static_cast<std::int32_t>(i)));
  });
  return batches;
}

// compute(), and again on other ranks until it is known what is right. The last result stands.
GradientReducer::Result Trainer::Impl::compute_checked(const Announced& plan,
                                                       const std::vector<data::MicroBatch>& batches,
                                                       StepTotals& totals, StepReport& report) {
  ensure(config.reduction == Reduction::exact, "only exact sums can be compared between ranks");
  const std::string scales = reducer->state();
  const StepReport blank = report;
  std::optional<StepReport> first;
  GradientReducer::Result result{};
  report.corruption = self_check(world, groups.layout, plan.plan.owner, [&](int turn) {
    parts.emplace();
    report = blank;
    reducer->set_state(scales);
    result = compute(plan, first ? load_turn(plan, turn) : batches, totals, report);
    if (!first) first = report;
    StepDigest found = digest(result, totals, report.loss);
    found.turn = turn;
    found.parts = std::move(*parts);
    parts.reset();
    return found;
  });
  report.micro_batches = first->micro_batches;
  report.compute_seconds = first->compute_seconds;
  report.recomputed = report.recomputed || first->recomputed;
  return result;
}

// Of what stands after compute(): two right computations have the same on every rank.
StepDigest Trainer::Impl::digest(GradientReducer::Result result, const StepTotals& totals,
                                 double loss) {
  const bool ready = result == GradientReducer::Result::ready;
  const double norm = ready ? optimizer.gradient_norm(shard_grads.span()) : 0;
  const nlohmann::json sums{static_cast<int>(result), totals.counts,
                            std::bit_cast<std::uint64_t>(loss), std::bit_cast<std::uint64_t>(norm),
                            reducer->state()};
  StepDigest digest;
  digest.shard = ready ? digest_of(*backend, shard_grads.span()) : 0;
  digest.totals = xxh3_64(bytes_of(sums.dump()));
  return digest;
}

// The gradient of this rank's shard, and what the step adds up to over all ranks.
GradientReducer::Result Trainer::Impl::compute(const Announced& plan,
                                               const std::vector<data::MicroBatch>& batches,
                                               StepTotals& totals, StepReport& report) {
  while (report.rescaled <= kMaxRescales) {
    const auto start = std::chrono::steady_clock::now();
    totals = accumulate(batches, plan.data_step);
    report.micro_batches = static_cast<std::int32_t>(batches.size());
    report.compute_seconds = seconds_since(start) - reducer->exchange_seconds();
    mpi::enter(world, Phase::reduce);
    const auto result = reducer->finish();
    if (result == GradientReducer::Result::redo) {
      ++report.rescaled;
      continue;
    }
    // What data or model do, they do again; a fault of a machine rarely comes twice.
    if (result == GradientReducer::Result::not_finite && !report.recomputed) {
      report.recomputed = true;
      continue;
    }
    totals.all_reduce(groups);
    report.loss = totals.mean_loss();
    report.grad_norm = std::numeric_limits<double>::quiet_NaN();
    report.lr = lr_at(config.optimizer.schedule, step);
    report.tokens = totals.counts[1];
    report.model_flops = static_cast<double>(totals.counts[2]) * 1e6;
    return result;
  }
  throw NumericError("step " + std::to_string(step) +
                     ": gradients grow faster than their scales; lower the learning rate");
}

StepTotals Trainer::Impl::accumulate(const std::vector<data::MicroBatch>& batches,
                                     std::int64_t data_step) {
  const std::uint64_t key =
      stream_key(config.seed, "dropout/" + config.stage, static_cast<std::uint64_t>(data_step));
  StepTotals totals;
  if (parts) parts->clear();
  reducer->begin(batches.size(), shard_grads.span());
  std::int32_t index = 0;
  const auto on_gradients = [&](std::int64_t layer) {
    mpi::enter(world, Phase::backward);
    meanwhile();
    if (fault && layer < 0) fault(data_step, grads.span());
    reducer->add(grads.span(), layer);
    if (parts && layer < 0) parts->push_back({index, digest_of(*backend, grads.span())});
  };
  // A loss is taken when the next micro-batch is queued: the device goes on from one to the other.
  const data::MicroBatch* before = nullptr;
  const auto take_loss = [&] {
    if (before != nullptr)
      totals.add(*before, model.take_loss(), model_flops(config.model, *before));
  };
  for (const data::MicroBatch& batch : batches) {
    index = batch.index;
    mpi::enter(world, Phase::forward);
    model.forward_backward(optimizer.weights(), grad_views, batch, key, on_gradients);
    take_loss();
    before = &batch;
  }
  take_loss();
  return totals;
}

void Trainer::Impl::finish_step(std::span<const float> gradient, StepTotals& totals,
                                StepReport& report) {
  const double norm_of_sum = optimizer.gradient_norm(gradient);
  const auto normalizer = static_cast<double>(std::max<std::int64_t>(1, totals.counts[0]));
  report.grad_norm = norm_of_sum / normalizer;
  report.verdict = guard.judge(report.loss, report.grad_norm);
  if (!report.applied()) return;
  mpi::enter(world, Phase::optimizer);
  const double clip = config.optimizer.clip_norm;
  const double factor = clip > 0 && report.grad_norm > clip ? clip / report.grad_norm : 1.0;
  optimizer.update(gradient, static_cast<float>(factor / normalizer), step);
}

double Trainer::held_out_loss(const data::Source& held_out, std::int32_t count) {
  Impl& t = *impl_;
  StepTotals totals;
  mpi::Outcome outcome;
  for (std::int32_t i = t.groups.layout.data_rank; i < count; i += t.groups.layout.data_size) {
    data::MicroBatch batch;
    // Ranks of one tensor group read the same batch, so they fail together; groups agree below.
    outcome = mpi::attempt([&] { batch = held_out.make(0, i); });
    if (outcome.code != ExitCode::done) break;
    totals.add(batch, t.model.loss(t.optimizer.weights(), batch), 0);
  }
  mpi::agree(t.world, outcome, "held-out loss");
  totals.all_reduce(t.groups);
  return totals.mean_loss();
}

checkpoint::Meta Trainer::Impl::meta() const {
  checkpoint::Meta meta;
  meta.step = step;
  meta.stage = config.stage;
  meta.model_json = to_json(config.model);
  meta.recipe_hash = config.recipe_hash;
  meta.tokenizer_hash = config.tokenizer_hash;
  meta.data_hash = config.data_hash;
  meta.state_json = nlohmann::json{
      {"noise", config.noise_json},
      {"reducer", reducer->state()},
      {"guard", guard.state()},
      {"data_offset", data_offset},
      {"rollbacks",
       rollbacks}}.dump();
  return meta;
}

void Trainer::begin_save(checkpoint::BackgroundSave& save,
                         std::optional<double> held_out_loss) const {
  save.begin([&](checkpoint::Snapshot& snapshot) {
    impl_->optimizer.copy_state(snapshot);
    snapshot.meta = impl_->meta();
    snapshot.meta.held_out_loss = held_out_loss;
  });
}

void Trainer::copy_state(checkpoint::Snapshot& snapshot) const {
  impl_->optimizer.copy_state(snapshot);
  impl_->optimizer.wait_for_copy();
  snapshot.meta = impl_->meta();
}

void Trainer::save(const std::filesystem::path& root, int keep_last) const {
  checkpoint::BackgroundSave save(impl_->world, root, {.last = keep_last});
  begin_save(save, std::nullopt);
  checkpoint::throw_if_failed(impl_->world, *save.finish());
}

}  // namespace demist
