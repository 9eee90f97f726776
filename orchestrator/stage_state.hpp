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
};

struct StageState {
  std::string key;     // identity of its settings and inputs: stage_key()
  std::string output;  // identity of what it made; later stages are bound to it
  double seconds = 0;  // all attempts that ended by themselves
  double began = 0;    // of the attempt under way, Unix time in seconds; 0: there is none
  std::optional<double> held_out_before, held_out_after;
  std::optional<Score> score;
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

// SHA-256 over the stage's settings and the outputs of the stages it depends on. Throws ConfigError
// naming the first of those that is not done.
std::string stage_key(const RunConfig& run, const StageConfig& stage);

enum class StageStatus { absent, started, done, changed };
// changed: its folder holds work made with other settings or inputs.
StageStatus status_of(const StageConfig& stage, const std::string& key);

// Deletes the stage's folder, and the corpora that a CORPUS stage built: a build refuses to go on
// from another one's shards. REQUIRES: nobody works there.
void forget(const RunConfig& run, const StageConfig& stage);

}  // namespace demist
