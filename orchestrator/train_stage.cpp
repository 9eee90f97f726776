// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/train_stage.hpp"

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "kernels/backend.hpp"
#include "kernels/cpu/peak.hpp"
#include "orchestrator/control_channel.hpp"
#include "orchestrator/coordinator.hpp"
#include "orchestrator/exit_record.hpp"
#include "orchestrator/metrics_file.hpp"
#include "orchestrator/signals.hpp"
#include "orchestrator/stage_data.hpp"
#include "orchestrator/stage_saves.hpp"
#include "orchestrator/stage_trainer.hpp"
#include "orchestrator/step_events.hpp"
#include "orchestrator/stop_file.hpp"
#include "worker/attention_choice.hpp"
#include "worker/checkpoint/catalog.hpp"
#include "worker/checkpoint/checkpoint.hpp"
#include "worker/checkpoint/roll_back.hpp"
#include "worker/device_plan.hpp"
#include "worker/trainer.hpp"

namespace demist {
namespace {

// What the stage has read before is there, if not now: another attempt may find it again.
StageData open_data(const RunConfig& run, const StageConfig& stage, bool read_before) {
  try {
    return open_stage_data(run, std::get<TrainingStage>(stage.work));
  } catch (const DataError& error) {
    if (!read_before) throw;
    throw EnvironmentError(std::string(error.what()) + "; this stage has read its data before");
  }
}

// What the device computes attention with.
PlannedAttention attention_of_stage(const mpi::Comm& world, const RunConfig& run,
                                    const StageConfig& stage, const StageData& data,
                                    Backend& backend) {
  AttentionQuestion question =
      attention_question(trainer_config(run, stage, data), *data.train, data.held_out.get(), world);
  question.plan_file = stage.device_plan();
  question.wish = run.attention;
  const AttentionChoice choice = settle_attention(world, backend, question);
  if (world.rank() == 0) append_attention_fallback(run.run_dir, stage.name, choice);
  return choice.planned;
}

// Rank 0 sees no checkpoint; its machine is to blame if others do.
[[noreturn]] void refuse_to_begin_anew(const mpi::Comm& world, const StageConfig& stage) {
  const fs::path root = stage.checkpoints();
  const std::string what = "stage " + stage.name + " has saved checkpoints, and there is none in " +
                           root.string() + "; bring its disk or the files back, or remove " +
                           stage.folder.string() + " to begin anew";
  mpi::together_alike(world, "find checkpoint", [&] {
    if (checkpoint::list_entries(root).empty()) throw EnvironmentError(what);
  });
  throw AgreedError(ExitCode::environment, what);
}

// Parameters, and what the devices compute with.
void load_state(const mpi::Comm& world, const RunConfig& run, const StageConfig& stage,
                const PlannedAttention& attention, bool has_saved, Trainer& trainer) {
  const auto own = checkpoint::open_latest(stage.checkpoints(), world);
  if (!own && has_saved) refuse_to_begin_anew(world, stage);
  if (own) {
    trainer.resume(*own);
    log::info("stage " + stage.name + " goes on from step " + std::to_string(trainer.step()));
  } else {
    load_beginning(world, run, stage, trainer);
  }
  settle_device_plan(
      world, trainer,
      {stage.name, stage.device_plan(), run.tune_products, own.has_value(), attention});
}

CoordinatorConfig coordinator_config(const mpi::Comm& world, const RunConfig& run,
                                     const TrainingStage& work, const Trainer& trainer,
                                     bool evaluate) {
  CoordinatorConfig config;
  config.first_step = trainer.step();
  config.total_steps = work.steps;
  config.micro_batches = work.batch.micro_batches;
  config.data_groups = world.size() / run.tensor_parallel;
  config.ranks_per_group = run.tensor_parallel;
  // Sums in another order have other last bits.
  config.balance = run.reduction == Reduction::exact;
  config.save_every = run.checkpoint_every;
  config.evaluate = evaluate;
  config.evaluate_every = work.evaluate_every;
  config.bad_in_a_row = work.guard.bad_in_a_row;
  config.rollbacks = work.rollbacks;
  config.check_every = run.recovery.self_check_every;
  return config;
}

// What rank 0 tells people and files.
class Reporter {
 public:
  Reporter(const RunConfig& run, const StageConfig& stage, Crewing crewing, ProgressStyle style)
      : run_dir_(run.run_dir),
        stage_(stage.name),
        total_(std::get<TrainingStage>(stage.work).steps),
        crewing_(std::move(crewing)),
        peak_flops_(run.peak_gflops * 1e9),
        metrics_(run.run_dir / "metrics.jsonl"),
        line_(style, stderr),
        last_(steady_seconds()) {}

  // `control_seconds`: what came in with the reports that were heard last.
  void step(const StepReport& report, double control_seconds) {
    const double seconds = lap();
    // A moving average that forgets half of its past in about 14 steps.
    average_ = average_ == 0 ? seconds : 0.95 * average_ + 0.05 * seconds;
    metrics_.write(step_line(stage_, report, seconds, control_seconds));
    append_step_events(run_dir_, stage_, report);
    StepProgress progress{stage_,      report.step + 1,  total_,
                          report.loss, report.grad_norm, report.lr};
    progress.tokens_per_second = static_cast<double>(report.tokens) / average_;
    if (peak_flops_ > 0) progress.peak_fraction = report.model_flops / average_ / peak_flops_;
    progress.eta_seconds = average_ * static_cast<double>(total_ - report.step - 1);
    line_.show(format_progress(progress), last_, report.step + 1 == total_);
  }
  void held_out(std::int64_t step, double loss) {
    line_.clear();
    metrics_.write(held_out_line(stage_, step, loss, lap()));
    log::info("stage " + stage_ + ", step " + std::to_string(step) + ": held-out loss " +
              std::to_string(loss));
  }
  void peak(double flops) {
    line_.clear();
    log::info("stage " + stage_ + ": matrix products reach " + format_count(flops * 1e-9) +
              " GFLOP/s on " +
              (crewing_.ranks == 1 ? "this rank" : std::to_string(crewing_.ranks) + " ranks"));
    peak_flops_ = flops;
    last_ = steady_seconds();
  }
  void event(const std::string& name, std::int64_t step) {
    metrics_.write(event_line(stage_, name, step, crewing_, lap()));
  }
  void corruption(const StepReport& report, const std::vector<std::string>& hosts) {
    line_.clear();
    append_corruption(run_dir_, stage_, report, hosts);
  }
  void rebalance(const Rebalance& rebalance) {
    line_.clear();
    append_rebalance(run_dir_, stage_, rebalance);
  }
  void rollback(const Rollback& rollback) {
    line_.clear();
    append_rollback(run_dir_, stage_, rollback);
    last_ = steady_seconds();
  }

 private:
  // Seconds since the last line, or since what came between.
  double lap() {
    const double now = steady_seconds(), seconds = now - last_;
    last_ = now;
    return seconds;
  }

  fs::path run_dir_;
  std::string stage_;
  std::int64_t total_;
  Crewing crewing_;
  double peak_flops_;
  MetricsFile metrics_;
  ProgressLine line_;
  double last_, average_ = 0;
};

// Adds the seconds for which it is in scope, by `clock`.
class Stopwatch {
 public:
  explicit Stopwatch(double& sum, double (*clock)() = steady_seconds) : sum_(sum), clock_(clock) {}
  ~Stopwatch() { sum_ += clock_() - start_; }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  double& sum_;
  double (*const clock_)();
  const double start_ = clock_();
};

// Carries out the coordinator's messages: docs/protocol.md, "The loop of a rank".
class StepLoop {
 public:
  StepLoop(const mpi::Comm& world, const RunConfig& run, const StageConfig& stage, Trainer& trainer,
           const StageData& data, ProgressStyle style, StageState& state)
      : world_(world),
        run_(run),
        stage_(stage),
        work_(std::get<TrainingStage>(stage.work)),
        trainer_(trainer),
        data_(data),
        state_(state),
        stop_file_(run.run_dir),
        channel_(world),
        saves_(world, run, stage, trainer.step()) {
    trainer_.meanwhile([this] {
      if (!channel_.expects_letters()) return;
      // MPI may lend the core to another rank here, which then computes: only work counts.
      const Stopwatch watch(control_seconds_, thread_seconds);
      channel_.progress();
    });
    if (world.rank() != 0) return;
    coordinator_.emplace(coordinator_config(world, run, work_, trainer, data.held_out != nullptr));
    reporter_.emplace(run, stage,
                      Crewing{world.size(), run.tensor_parallel, trainer.backend().name()}, style);
    reporter_->event("start", trainer.step());
  }

  Stop run() {
    post();
    ControlMessage current = receive();
    if (!std::holds_alternative<Stop>(current)) post();
    while (!std::holds_alternative<Stop>(current)) {
      // The next message has travelled while the last one was carried out; the one after leaves
      // now.
      ControlMessage ahead = receive();
      if (!std::holds_alternative<Stop>(ahead)) post();
      if (!held_ || std::holds_alternative<Rollback>(current))
        std::visit([this](const auto& message) { carry_out(message); }, current);
      saves_.poll();
      note_saved();
      current = std::move(ahead);
    }
    settle();
    end_save();
    note_saved();
    return std::get<Stop>(current);
  }
  // Why the newest state could not be saved; empty: it is.
  const std::string& save_problem() const { return saves_.problem(); }

 private:
  void post() {
    if (!coordinator_) return;
    {
      const Stopwatch watch(control_seconds_);
      channel_.post(coordinator_->next());
    }
    if (const auto rebalance = coordinator_->take_rebalance()) reporter_->rebalance(*rebalance);
  }
  ControlMessage receive() {
    ControlMessage message = wait();
    if (const auto* plan = std::get_if<StepPlan>(&message)) trainer_.announce(*plan);
    // What comes after it is announced before it is carried out.
    if (const auto* back = std::get_if<Rollback>(&message)) trainer_.skip_data(back->data_steps);
    return message;
  }
  ControlMessage wait() {
    const Stopwatch watch(control_seconds_);
    return channel_.wait();
  }
  void send(const StepReport& step) {
    Report mine{step.step, step.exhausted, step.rollbacks, stop_requested(), 0, {}};
    mine.control_seconds = static_cast<float>(std::exchange(control_seconds_, 0));
    if (const auto speed = speed_.add(step.compute_seconds, step.micro_batches))
      mine.speeds.push_back({world_.rank(), *speed});
    const Stopwatch watch(control_seconds_);
    digest(channel_.report(mine));
  }
  // The file is for one rank to look at: reports are merged.
  bool stop_requested() {
    return signals_.requested() || (world_.rank() == 0 && stop_file_.look_now_and_then());
  }
  void settle() {
    const Stopwatch watch(control_seconds_);
    digest(channel_.drain());
  }
  void digest(const std::optional<Report>& report) {
    if (!report) return;
    coordinator_->receive(*report);
    heard_control_seconds_ = report->control_seconds;
  }

  void carry_out(const StepPlan&) {
    const StepReport report = trainer_.run_step();
    send(report);
    if (reporter_) reporter_->step(report, heard_control_seconds_);
    if (report.corruption) heed_corruption(report);
    if (!peak_is_known_) measure_peak();
    if (!report.exhausted) return;
    held_ = true;  // what is under way was planned for a state that did not come
    settle();
  }
  // Collective: every rank knows of it.
  void heed_corruption(const StepReport& report) {
    const std::vector<std::string> hosts = world_.gather(node_name(), 0);
    std::string problem;
    if (reporter_) {
      reporter_->corruption(report, hosts);
      problem = describe_corruption(stage_.name, report, hosts, run_.recovery.self_check_every);
    }
    if (report.corruption->passing) return;
    throw AgreedError(ExitCode::numeric, world_.broadcast(problem, 0));
  }
  // All ranks at once, as they work. After the first step: nobody waits for it then.
  void measure_peak() {
    constexpr double seconds = 0.1;
    double flops = 0;
    mpi::together(world_, "measure peak",
                  [&] { flops = cpu::measure_peak(run_.compute, seconds); });
    const std::int64_t megaflops = world_.all_reduce_sum(static_cast<std::int64_t>(flops * 1e-6));
    if (reporter_) reporter_->peak(static_cast<double>(megaflops) * 1e6);
    peak_is_known_ = true;
  }
  void carry_out(const Save& save) {
    mpi::enter(world_, Phase::save);
    saves_.begin(trainer_);
    mpi::enter(world_, Phase::control);
    if (reporter_) reporter_->event("save", save.step);
  }
  void end_save() {
    if (!saves_.in_flight()) return;
    mpi::enter(world_, Phase::save);
    saves_.finish();
    mpi::enter(world_, Phase::control);
    if (reporter_) reporter_->event("save", trainer_.step());
  }
  // So that a later attempt does not take checkpoints that it cannot see for none.
  void note_saved() {
    if (!reporter_ || state_.saved || !saves_.has_saved()) return;
    state_.saved = true;
    const mpi::Outcome written = mpi::attempt([&] { write_started(stage_, state_); });
    state_.saved = written.message.empty();  // else again, when there is room
  }
  void carry_out(const Evaluate& evaluate) {
    mpi::enter(world_, Phase::evaluate);
    const double loss = trainer_.held_out_loss(*data_.held_out, work_.held_out_micro_batches);
    mpi::enter(world_, Phase::control);
    saves_.held_out(evaluate.step, loss);
    if (evaluate.step == work_.steps) state_.held_out_after = loss;
    if (reporter_) reporter_->held_out(evaluate.step, loss);
    if (evaluate.step != 0) return;
    state_.held_out_before = loss;
    if (reporter_) write_started(stage_, state_);  // a resumed stage does not measure it again
  }
  void carry_out(const Rollback& rollback) {
    end_save();
    mpi::enter(world_, Phase::start);
    trainer_.roll_back(checkpoint::roll_back(world_, stage_.checkpoints(), rollback.step));
    if (reporter_) reporter_->rollback(rollback);
    mpi::enter(world_, Phase::control);
    held_ = false;
  }
  void carry_out(const Settle&) { settle(); }
  void carry_out(const Stop&) {}

  const mpi::Comm& world_;
  const RunConfig& run_;
  const StageConfig& stage_;
  const TrainingStage& work_;
  Trainer& trainer_;
  const StageData& data_;
  StageState& state_;
  StopSignals signals_{StopSignals::Second::ends_process};
  StopFile stop_file_;
  ControlChannel channel_;
  SpeedMeter speed_;
  double control_seconds_ = 0;        // in the exchange, of this rank, since its last report
  double heard_control_seconds_ = 0;  // rank 0: of the report heard last
  bool peak_is_known_ = run_.peak_gflops > 0 || !trainer_.backend().on_host();
  bool held_ = false;  // after one bad step too many nothing is carried out until Rollback or Stop
  std::optional<Coordinator> coordinator_;  // rank 0
  std::optional<Reporter> reporter_;        // rank 0
  StageSaves saves_;
};

}  // namespace

ExitCode train_stage(const mpi::Comm& world, const RunConfig& run, const StageConfig& stage,
                     ProgressStyle progress, StageState& state) {
  StageData data;
  mpi::together_alike(world, "open data of stage " + stage.name,
                      [&] { data = open_data(run, stage, state.saved); });
  Device device = make_device(run.device, world);
  const PlannedAttention attention = attention_of_stage(world, run, stage, data, *device.backend);
  TrainerConfig config = trainer_config(run, stage, data);
  config.attention = attention.path;
  Trainer trainer(world, config, data.train, std::move(device), data.held_out.get());
  if (world.rank() == 0)
    log::info("stage " + stage.name + ": " + std::to_string(world.size()) +
              (world.size() == 1 ? " rank on " : " ranks on ") + trainer.backend().name());
  log::info("stage " + stage.name + ": memory of a rank " + to_string(trainer.memory_plan()));
  load_state(world, run, stage, attention, state.saved, trainer);
  StepLoop loop(world, run, stage, trainer, data, progress, state);
  const Stop stop = loop.run();
  const std::string where = "stage " + stage.name + ": ";
  switch (stop.reason) {
    case Stop::Reason::done:
      if (!loop.save_problem().empty())
        throw AgreedError(ExitCode::environment,
                          where + "the final state could not be saved: " + loop.save_problem() +
                              "; when that is mended, run the same command to go on from there");
      return ExitCode::done;
    case Stop::Reason::interrupted:
      log::info(where +
                (loop.save_problem().empty() ? "stopped and saved" : "stopped, but not saved,") +
                " after step " + std::to_string(stop.step) + "; run the same command to go on");
      return ExitCode::requeue;
    case Stop::Reason::not_finite:
      break;
  }
  throw NumericError(
      "stage " + stage.name + ", step " + std::to_string(stop.step) +
      ": too many steps in a row whose loss or gradient is not finite or a spike, and no way back; "
      "lower optimizer.lr, lengthen the warm-up or set precision: FP32, and run again with --redo: "
      "with other settings the stage begins anew");
}

}  // namespace demist
