// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/replay.hpp"

#include <algorithm>
#include <cstdio>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "orchestrator/coordinator.hpp"
#include "orchestrator/cores.hpp"
#include "orchestrator/format.hpp"
#include "orchestrator/nearest.hpp"
#include "orchestrator/recorded_steps.hpp"
#include "orchestrator/stage_state.hpp"
#include "orchestrator/stage_trainer.hpp"
#include "worker/attention_choice.hpp"
#include "worker/checkpoint/catalog.hpp"
#include "worker/checkpoint/compare.hpp"
#include "worker/device_plan.hpp"
#include "worker/trainer.hpp"

namespace demist {
namespace {

std::string number(std::int64_t value) { return std::to_string(value); }

// What can be refused before anything is loaded.
void check_stage(const RunConfig& run, const StageConfig& stage, std::int64_t step) {
  const auto* work = std::get_if<TrainingStage>(&stage.work);
  if (work == nullptr)
    throw ConfigError("stage " + stage.name +
                      " does not train, so it has no steps; name a PRETRAIN or ADAPT stage");
  if (step >= work->steps)
    throw ConfigError("--replay-step " + number(step) + ": stage " + stage.name +
                      " has steps 0 to " + number(work->steps - 1));
  auto state = read_done(stage);
  if (!state) state = read_started(stage);
  if (!state)
    throw ConfigError("stage " + stage.name + " has not begun in " + run.run_dir.string() +
                      "; is run_dir the run's folder?");
  if (state->key != stage_key(run, stage))
    throw ConfigError(stage.folder.string() +
                      " was made with other settings or inputs; replay it with the recipe and the "
                      "--set that made it (launch.json in the run folder names them)");
}

RecordedSteps read_record(const RunConfig& run, const StageConfig& stage, std::int64_t step) {
  const fs::path file = run.run_dir / "metrics.jsonl";
  if (!fs::exists(file))
    throw ConfigError(file.string() + " is not there: no step can be compared");
  const MappedFile mapped(file);
  const auto bytes = mapped.bytes();
  RecordedSteps record({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, stage.name);
  if (record.last(step) == nullptr)
    throw ConfigError("--replay-step " + number(step) + ": " + file.string() +
                      " has no such step of stage " + stage.name +
                      (record.end() == 0 ? std::string("; it has none yet")
                                         : "; its last one is " + number(record.end() - 1)));
  return record;
}

// The newest good one of at most `step` finished steps. Empty: the stage's beginning, where the run
// itself would start again, since no checkpoint of so few steps is due.
fs::path find_start(const RunConfig& run, const StageConfig& stage, std::int64_t step) {
  std::vector<std::string> known;
  for (const checkpoint::Entry& entry : checkpoint::list_entries(stage.checkpoints())) {
    known.push_back(number(entry.step));
    if (entry.step > step) continue;
    try {
      return checkpoint::open_step(stage.checkpoints(), entry.step).directory();
    } catch (const CheckpointError& error) {
      log::warning("passing over a bad checkpoint: " + std::string(error.what()));
    }
  }
  if (run.checkpoint_every == 0 || step < run.checkpoint_every) return {};
  std::ranges::reverse(known);
  throw CheckpointError(
      stage.checkpoints().string() + " has no good checkpoint of " + number(step) +
      " steps or fewer" + (known.empty() ? std::string() : ", only of " + join(known, ", ")) +
      "; replay a later step (checkpoint.keep_every_steps keeps old ones), or repeat the run with "
      "--set run_dir=... and compare metrics.jsonl");
}

// Bits that follow from where a step ran.
void check_crewing(const RunConfig& run, int ranks, const Crewing& then, std::int64_t step) {
  if (then.ranks == 0) return;
  const std::string made = "step " + number(step) + " was made ";
  if (then.tensor > 0 && then.tensor != run.tensor_parallel)
    throw ConfigError(
        made + "with parallel.tensor = " + number(then.tensor) +
        ", and its last bits depend on that; use --set parallel.tensor=" + number(then.tensor));
  if (run.reduction == Reduction::fast && then.ranks != ranks)
    throw ConfigError(made + "by " + number(then.ranks) +
                      " ranks, and with reduction: FAST its last bits depend on that; start as "
                      "many (with EXACT any number would do)");
}

CoordinatorConfig guard_of(const RunConfig& run, const TrainingStage& work) {
  CoordinatorConfig config;
  config.save_every = run.checkpoint_every;
  config.bad_in_a_row = work.guard.bad_in_a_row;
  config.rollbacks = work.rollbacks;
  return config;
}

checkpoint::Checkpoint open_together(const mpi::Comm& world, const fs::path& directory) {
  std::optional<checkpoint::Checkpoint> opened;
  mpi::together(world, "open checkpoint", [&] { opened.emplace(directory); });
  return std::move(*opened);
}

class Replay {
 public:
  Replay(const mpi::Comm& world, const RunConfig& run, const StageConfig& stage, std::int64_t step)
      : world_(world),
        run_(run),
        stage_(stage),
        work_(std::get<TrainingStage>(stage.work)),
        target_(step) {}

  void run() {
    use_share_of_cores(world_, run_.threads);
    mpi::together(world_, "replay", [&] {
      if (world_.rank() != 0) return;
      record_.emplace(read_record(run_, stage_, target_));
      start_ = find_start(run_, stage_, target_);
    });
    start_ = world_.broadcast(start_.string(), 0);
    load();
    mpi::together(world_, "replay", [&] { announce(); });
    while (!at_end_) advance();
    compare_state();
    conclude();
  }

 private:
  void load() {
    mpi::together(world_, "open data of stage " + stage_.name,
                  [&] { data_ = open_stage_data(run_, work_); });
    Device device = make_device(run_.device, world_);
    TrainerConfig config = trainer_config(run_, stage_, data_);
    config.attention = planned_attention(world_, *device.backend, stage_.device_plan());
    trainer_.emplace(world_, config, data_.train, std::move(device));
    if (start_.empty())
      load_beginning(world_, run_, stage_, *trainer_);
    else
      trainer_->resume(open_together(world_, start_));
    adopt_device_plan(world_, *trainer_, stage_.device_plan());
  }

  // Rank 0: what follows, and whether its bits can be the same here.
  void announce() {
    if (!record_) return;
    std::string device;
    for (std::int64_t step = trainer_->step(); step <= target_; ++step) {
      const RecordedStep* then = record_->last(step);
      if (then == nullptr) continue;
      check_crewing(run_, world_.size(), then->crewing, step);
      if (then->crewing.device != trainer_->backend().name()) device = then->crewing.device;
    }
    if (!device.empty())
      log::warning("the run's steps were made on " + device + ", and here is " +
                   trainer_->backend().name() + ": last bits may differ because of that");
    const std::string last = number(target_);
    std::printf("stage %s, from %s to the end of step %s\n%10s  %-12s  %-12s  %-12s\n",
                stage_.name.c_str(), start_.empty() ? "its beginning" : start_.filename().c_str(),
                last.c_str(), "step", "loss", "grad norm", "lr");
  }

  // One step; after it at_end_ says whether it was the last.
  void advance() {
    const StepPlan plan{trainer_->step(), balanced_owners(work_.batch.micro_batches,
                                                          world_.size() / run_.tensor_parallel)};
    trainer_->announce(plan);
    const StepReport report = trainer_->run_step();
    bool at_end = false;
    if (record_) at_end = compare(report);
    at_end_ = world_.all_reduce_max(at_end ? 1 : 0) != 0;
    if (!at_end_ && report.exhausted) at_end_ = !go_back(report);
  }

  // Rank 0. True when there is nothing more to do: this was the step that is wanted, as it stands
  // in the end, or the run went another way.
  bool compare(const StepReport& report) {
    const RecordedStep* then = record_->find(report.step, report.rollbacks);
    const std::string different = then == nullptr ? "" : differences(report, *then);
    std::printf("%10s  %-12.6g  %-12.6g  %-12.6g  %s\n", number(report.step).c_str(), report.loss,
                report.grad_norm, report.lr,
                then == nullptr     ? "no line in metrics.jsonl"
                : different.empty() ? "equal"
                                    : ("DIFFERS: " + different).c_str());
    std::fflush(stdout);
    if (then != nullptr) ++compared_;
    if (!different.empty()) differ("step " + number(report.step) + " (" + different + ")");
    const std::int32_t wanted = record_->last(target_)->rollbacks;
    if (report.step == target_ && report.rollbacks >= wanted) return true;
    if (report.step < target_ || report.exhausted) return false;
    // It came by on a way that the run left again: the replay has to leave it too.
    if (record_->find(report.step + 1, report.rollbacks) != nullptr) return false;
    differ("the run went back after step " + number(report.step) + ", the replay did not");
    return true;
  }

  // As the run's coordinator would. False when there is no way back.
  bool go_back(const StepReport& report) {
    const ControlMessage way = way_back(guard_of(run_, work_), report.step, report.rollbacks);
    const auto* back = std::get_if<Rollback>(&way);
    if (back == nullptr) {
      differ("the replay stops after bad steps at step " + number(report.step) +
             ", the run went on");
      return false;
    }
    if (record_)
      std::printf("back to step %s, without the data of the next %s steps\n",
                  number(back->step).c_str(), number(back->data_steps).c_str());
    trainer_->skip_data(back->data_steps);
    trainer_->roll_back(
        open_together(world_, stage_.checkpoints() / checkpoint::directory_name(back->step)));
    return true;
  }

  // Of all ranks' shards with the checkpoint of the state after the last step, if there is one.
  void compare_state() {
    const fs::path directory = sound_checkpoint(trainer_->step());
    if (directory.empty()) return;
    checkpoint::Difference mine;
    const checkpoint::Checkpoint stored = open_together(world_, directory);
    mpi::together(world_, "compare " + directory.string(), [&] {
      checkpoint::Snapshot state;
      trainer_->copy_state(state);
      mine = checkpoint::compare(state, stored);
    });
    const std::int64_t values = world_.all_reduce_sum(mine.values);
    std::string first;
    for (const std::string& where : world_.gather(mine.where, 0))
      if (first.empty()) first = where;
    if (!record_) return;
    const std::string name = directory.filename().string();
    if (first.empty()) {
      std::printf("the state after it is %s's, bit for bit\n", name.c_str());
      return;
    }
    const std::string different =
        "the state after it differs from " + name + "'s in " +
        (values == 0 ? first : number(values) + " values, the first: " + first);
    std::printf("%s\n", different.c_str());
    differ(different);
  }

  // Collective. Empty: there is none.
  fs::path sound_checkpoint(std::int64_t step) {
    std::string directory;
    if (record_ && fs::exists(stage_.checkpoints() / checkpoint::directory_name(step))) try {
        directory = checkpoint::open_step(stage_.checkpoints(), step).directory().string();
      } catch (const CheckpointError& error) {
        log::warning("the state is not compared: " + std::string(error.what()));
      }
    return world_.broadcast(directory, 0);
  }

  void differ(const std::string& what) {
    if (first_difference_.empty()) first_difference_ = what;
  }

  void conclude() {
    const std::string found = world_.broadcast(first_difference_, 0);
    if (!found.empty())
      throw AgreedError(ExitCode::numeric,
                        "the replay of stage " + stage_.name + " is not the run; first: " + found +
                            "; replay it on another machine: the one that both others contradict "
                            "computes wrong");
    if (record_) std::printf("equal: %s steps, bit for bit\n", number(compared_).c_str());
  }

  const mpi::Comm& world_;
  const RunConfig& run_;
  const StageConfig& stage_;
  const TrainingStage& work_;
  const std::int64_t target_;
  std::optional<RecordedSteps> record_;  // rank 0
  fs::path start_;                       // checkpoint; empty: the stage's beginning
  StageData data_;
  std::optional<Trainer> trainer_;
  bool at_end_ = false;
  std::int64_t compared_ = 0;
  std::string first_difference_;  // on rank 0
};

}  // namespace

void replay_step(const mpi::Comm& world, const RunConfig& run, const StageConfig& stage,
                 std::int64_t step) {
  mpi::together(world, "replay", [&] { check_stage(run, stage, step); });
  Replay(world, run, stage, step).run();
}

}  // namespace demist
