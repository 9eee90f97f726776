// What a stage has left in its folder: started.json while it runs, done.json when it is done.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <thread>

#include "orchestrator/config.hpp"

namespace demist {

struct Score {
  std::string metric;         // "rouge_l" or "bleu"
  double score = 0;           // percent
  double baseline = 0;        // percent, of the trivial answer
  std::string baseline_name;  // "lead" or "copy"
  std::int64_t examples = 0;
  std::int64_t left_out = 0;    // pairs of the split that are malformed or longer than max_length
  std::int32_t max_length = 0;  // tokens, prompt and response
};

struct StageState {
  std::string key;     // identity of its settings and inputs: stage_key()
  std::string output;  // identity of what it made; later stages are bound to it
  double seconds = 0;  // all attempts that ended by themselves
  double began = 0;    // of the attempt under way, Unix time in seconds; 0: there is none
  std::optional<double> held_out_before, held_out_after;
  std::optional<Score> score;
  bool saved = false;  // a checkpoint of it has been written
};
std::string to_json(const StageState& state);
StageState stage_state_from_json(const std::string& text);  // throws DataError

std::optional<StageState> read_started(const StageConfig& stage);
std::optional<StageState> read_done(const StageConfig& stage);
void write_started(const StageConfig& stage, const StageState& state);

// Keeps the time of change of started.json at "now" while it lives: from it, an attempt that ends
// without a word (SIGKILL, a power cut) is known to have lived until then. REQUIRES: the stage was
// started.
class StageClock {
 public:
  explicit StageClock(const StageConfig& stage, double period_seconds = 1);

 private:
  std::jthread thread_;
};
// Seconds of all attempts before this one, those that were killed included.
double seconds_spent(const StageConfig& stage, const StageState& started);
double unix_seconds();
void write_done(const StageConfig& stage, const StageState& state);

// Whoever works in a run folder holds a lock on its file "lock". A killed run's processes may need
// a moment to go: wait for them this long.
inline constexpr double kLockPatience = 3;    // seconds
inline constexpr double kRankPatience = 300;  // the same for ranks that save first

// SHA-256 over the stage's settings and the outputs of the stages it depends on. Throws ConfigError
// naming the first of those that is not done.
std::string stage_key(const RunConfig& run, const StageConfig& stage);

enum class StageStatus { absent, started, done, changed };
// changed: it is done with other settings or inputs, or has left a checkpoint, corpus or product
// made with them. Without any of these, what was begun counts for nothing.
StageStatus status_of(const RunConfig& run, const StageConfig& stage, const std::string& key);

// Makes a stage that is done one that was begun: it goes on from what is left of its work.
void reopen(const StageConfig& stage);
// Deletes the stage's folder, and what it made elsewhere in the run folder and would not make
// again: a CORPUS stage's corpora, a PREPARE stage's product. REQUIRES: nobody works there.
void forget(const RunConfig& run, const StageConfig& stage);

}  // namespace demist
