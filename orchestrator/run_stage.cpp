// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/run_stage.hpp"

#include <algorithm>
#include <cstdlib>
#include <limits>

#include "core/checksum.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "data/corpus.hpp"
#include "orchestrator/cores.hpp"
#include "orchestrator/exit_record.hpp"
#include "orchestrator/nearest.hpp"
#include "orchestrator/process.hpp"
#include "orchestrator/rank_watch.hpp"
#include "orchestrator/run_folder.hpp"
#include "orchestrator/run_plan.hpp"
#include "orchestrator/score_stage.hpp"
#include "orchestrator/signals.hpp"
#include "orchestrator/slurm/submit.hpp"
#include "orchestrator/stage_state.hpp"
#include "orchestrator/stop_file.hpp"
#include "orchestrator/train_stage.hpp"

namespace demist {
namespace {

// Runs the command that makes the raw text, unless its product exists and is no half of one.
// Returns the product's hash.
std::string prepare(const StageConfig& stage, const PrepareStage& work) {
  const fs::path running = stage.folder / "command-runs";
  if (fs::exists(work.product) && !fs::exists(running)) {
    log::info(work.product.string() + " exists already: the command is not run");
  } else {
    if (fs::exists(work.product))
      log::warning("the command that made " + work.product.string() +
                   " did not end well: it is run again. To keep what is there, remove " +
                   running.string());
    atomic_write(running, "");
    log::info("running " + join(work.command, " "));
    int code = 0;
    try {
      code = run_process({work.command, {}}, [](int) {});  // it ends when we do
    } catch (const EnvironmentError& error) {
      throw ConfigError(error.what());  // nothing that another attempt could mend
    }
    if (code != 0)
      throw DataError(work.command.front() + " failed with code " + std::to_string(code) +
                      "; run it by hand to see why: " + join(work.command, " "));
    if (!fs::exists(work.product))
      throw DataError(work.command.front() + " ended well but made no " + work.product.string() +
                      "; correct the stage's `product`");
    fs::remove(running);
  }
  return sha256_hex(read_file(work.product));
}

std::string make_tokenizer(const RunConfig& run) {
  const auto made = data::train_tokenizer(run.tokenizer.training, run.tokenizer.model);
  const data::Tokenizer tokenizer(run.tokenizer.model);
  log::info("tokenizer: vocabulary " + std::to_string(tokenizer.vocab_size()) + " from " +
            std::to_string(made.sampled_bytes) + " of " + std::to_string(made.bytes) + " bytes");
  return tokenizer.hash();
}

std::string build_corpora(const mpi::Comm& world, const RunConfig& run) {
  std::string hashes;
  for (const CorpusConfig& corpus : run.corpora) {
    if (!corpus.built) continue;
    const data::CorpusSummary summary = data::build_corpus(world, corpus.build);
    log::info("corpus " + corpus.build.name + ": " + std::to_string(summary.documents) +
              " documents, " + std::to_string(summary.tokens) + " tokens, " +
              std::to_string(summary.shards) + " shards");
    mpi::together_alike(world, "open corpus",
                        [&] { hashes += data::Corpus(corpus.build.output).hash() + "\n"; });
  }
  return sha256_hex(hashes);
}

void open_log(const mpi::Comm& world, const fs::path& run_dir) {
  const fs::path folder = run_dir / "logs";
  fs::create_directories(folder);
  const std::string number = std::to_string(world.rank());
  log::open_file(folder / ("rank-" + std::string(number.size() < 4 ? 4 - number.size() : 0, '0') +
                           number + ".log"));
}

// Only training has steps to measure a pause by; elsewhere a rank may work in silence for hours.
Patience patience_of(const RunConfig& run, const StageConfig& stage) {
  Patience patience;
  patience.factor = run.recovery.hang_factor;
  if (!std::holds_alternative<TrainingStage>(stage.work))
    patience.unknown_work = std::numeric_limits<double>::infinity();
  return patience;
}

// Training asks between two steps. What `demist run` has started it ends itself.
RankWatch::StopRequest stop_request_of(const StageConfig& stage) {
  const bool heard =
      std::holds_alternative<TrainingStage>(stage.work) || std::getenv(kAttemptVariable) != nullptr;
  return heard ? RankWatch::StopRequest::is_heard_elsewhere : RankWatch::StopRequest::ends_process;
}

// Leaves the identity of what it made, and what it measured, in `state`.
ExitCode carry_out(const mpi::Comm& world, const RunConfig& run, const StageConfig& stage,
                   ProgressStyle progress, StageState& state) {
  state.output = state.key;
  use_share_of_cores(world, run.threads);
  if (const auto* work = std::get_if<PrepareStage>(&stage.work))
    mpi::together(world, "prepare", [&] {
      if (world.rank() == 0) state.output = prepare(stage, *work);
    });
  else if (std::holds_alternative<TokenizerStage>(stage.work))
    mpi::together(world, "train tokenizer", [&] {
      if (world.rank() == 0) state.output = make_tokenizer(run);
    });
  else if (std::holds_alternative<CorpusStage>(stage.work))
    state.output = build_corpora(world, run);
  else if (std::holds_alternative<TrainingStage>(stage.work))
    return train_stage(world, run, stage, progress, state);
  else
    state.score = score_stage(world, run, stage, progress);
  return ExitCode::done;
}

// What `demist run` has done, and a user's mpirun has not.
void become_a_run(const RunConfig& run) {
  if (run.record.empty()) {
    slurm::keep_record_of_jobs(run);
    write_record(run);
  }
  // Who starts a run wants it to go on. Of a supervised one it would be a request of just now.
  if (std::getenv(kAttemptVariable) == nullptr) fs::remove(run.run_dir / kStopFile);
}

// A full disk costs a stage that was begun its seconds, not its exit code.
void update_started(const StageConfig& stage, const StageState& state) {
  const mpi::Outcome written = mpi::attempt([&] { write_started(stage, state); });
  if (!written.message.empty()) log::warning(written.message);
}

ExitCode run_opened(const mpi::Comm& world, const RunConfig& run, const StageConfig& stage,
                    ProgressStyle progress, StageStatus status, StageState state) {
  const double begin = steady_seconds();
  state.began = unix_seconds();
  std::optional<StageClock> clock;
  mpi::together(world, "start stage " + stage.name, [&] {
    if (world.rank() != 0) return;
    status == StageStatus::started ? update_started(stage, state) : write_started(stage, state);
    clock.emplace(stage);
  });
  const ExitCode code = carry_out(world, run, stage, progress, state);
  mpi::together(world, "finish stage " + stage.name, [&] {
    state.seconds += steady_seconds() - begin;
    state.began = 0;
    clock.reset();
    if (world.rank() != 0) return;
    if (code == ExitCode::done) return write_done(stage, state);
    update_started(stage, state);
  });
  return code;
}

}  // namespace

void leave_reason(const fs::path& run_dir, const std::string& stage, int rank,
                  const mpi::Outcome& failure) {
  write_exit_record(run_dir, {unix_seconds(), stage, rank, node_name(), failure.code,
                              failure.message, failure.agreed, failure.machine});
}

std::string stage_names(const RunConfig& run) {
  std::vector<std::string> known;
  for (const StageConfig& stage : run.stages) known.push_back(stage.name);
  return join(known, ", ");
}

ExitCode run_stage(const mpi::Comm& world, const RunConfig& run, const StageConfig& stage,
                   ProgressStyle progress) {
  outlive_readers();
  std::optional<FileLock> lock;
  mpi::together(world, "open run folder", [&] {
    open_log(world, run.run_dir);
    // Two runs in one folder would write each other's checkpoints.
    if (world.rank() == 0) {
      lock.emplace(run.run_dir / "lock", kLockPatience);
      clear_exit_records(run.run_dir, stage.name);
      become_a_run(run);
    }
  });
  try {
    StageState state;
    StageStatus status = StageStatus::absent;
    mpi::together_alike(world, "open stage " + stage.name, [&] {
      state.key = stage_key(run, stage);
      status = require_sound(run, stage);
      if (status == StageStatus::started) state = *read_started(stage);
      state.seconds = seconds_spent(stage, state);
    });
    if (status == StageStatus::done) {
      log::info("stage " + stage.name + " is done already");
      return ExitCode::done;
    }
    const RankWatch watch(world, run.run_dir, stage.name, patience_of(run, stage),
                          stop_request_of(stage));
    return run_opened(watch.world(), run, stage, progress, status, state);
  } catch (...) {
    leave_reason(run.run_dir, stage.name, world.rank(), mpi::attempt([] { throw; }));
    throw;
  }
}

}  // namespace demist
