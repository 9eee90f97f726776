// What a run is doing, judged from what its folder and Slurm say. Pure.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>

#include "core/file.hpp"
#include "orchestrator/slurm/queue.hpp"

namespace demist::slurm {

// Of events.jsonl; times in Unix seconds, 0: never.
struct RunEvents {
  double started = 0;   // a supervisor began: the newest of which no end is told, else the newest
  std::string host;     // where
  int process = 0;      // which
  bool in_job = false;  // started by a batch script
  bool open = false;    // no end of it is told
  double ended = 0;     // a supervisor ended by itself: the newest to
  int code = 0;         // with this
  double asked = 0;     // it was asked to stop: a signal of Slurm's, or <run>/STOP
  double job_started = 0;  // a batch script began
  std::string job;         // of that script
  double job_ended = 0;    // the script ended by itself
  int job_code = 0;
  std::string job_reason;
  std::set<std::string> jobs_over;  // ids of those whose scripts have told of their end
  double requeued = 0;              // the script asked for it
  double failed = 0;                // an attempt at a stage failed
  std::string cause;                // why: the first failing rank's words
};

// How far it has come.
struct RunProgress {
  bool done = false;   // every stage
  bool begun = false;  // some stage
  bool saved = false;  // a checkpoint, or a whole stage
  std::string stage;   // begun and not done; "": none
  bool training = false;
  std::int64_t step = 0, steps = 0;  // finished, of
  double loss = 0, tokens_per_second = 0;
  double seconds_per_step = 0;  // of late; 0: unknown
  double last_line = 0;         // Unix time of the newest line of metrics.jsonl
  double alive = 0;             // a process of the stage lived then (the stage's clock)
  double began = 0;             // the attempt under way; 0: the last one ended by itself
};

struct RunFacts {
  double now = 0;
  std::string host;  // this one
  RunEvents events;
  RunProgress progress;
  bool stop_file = false;
  std::optional<LockHolder> lock;     // on the folder, by rank 0 of a stage; none: never
  std::optional<bool> process_lives;  // the supervisor's; none: on another host, or never started
  std::optional<Job> job;             // the one that matters now
  bool queue_answered = false;        // of that job it is known whether it lives
  std::string queue_problem;          // why not
  std::optional<QueueRow> row;
  std::optional<AccountRow> account;
  std::string unsent;  // what sbatch refused, in words
};

enum class Activity {
  fresh,  // nothing has begun
  queued,
  starting,
  running,   // a stage without steps
  training,  // a stage with steps
  saving,
  requeued,
  stalled,
  stopped,  // saved, and nobody goes on by himself
  done,
  failed,
  unknown
};
struct RunState {
  Activity activity = Activity::unknown;
  std::string detail;  // for people; may be empty
  bool is_over() const;
};
const char* name_of(Activity activity);  // "TRAINING"

RunState judge(const RunFacts& facts);

// The process to end when a run is to end at once and no job stands for it.
struct Worker {
  std::string host;
  int process = 0;
  bool by_hand = false;  // rank 0 of a `demist train` under a user's mpirun; else `demist run`
};
std::optional<Worker> worker_of(const RunFacts& facts);  // none: nobody works, or a job does

// "TRAINING pretrain 120/300, loss 6.41, 12.3k tok/s, ETA 1:23"
std::string describe(const RunState& state, const RunFacts& facts);

}  // namespace demist::slurm
