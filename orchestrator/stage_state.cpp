// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/stage_state.hpp"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>

#include "core/checksum.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "data/manifest.hpp"
#include "worker/checkpoint/catalog.hpp"

namespace demist {
namespace {

using nlohmann::ordered_json;

std::optional<StageState> read_state(const fs::path& path) {
  if (!fs::exists(path)) return std::nullopt;
  const std::string text = read_file(path);
  try {
    return stage_state_from_json(text);
  } catch (const DataError& error) {
    throw DataError(path.string() + ": " + error.what() +
                    "; delete this file and nothing else: the stage goes on from the checkpoints "
                    "and files that it has made");
  }
}

void write_state(const fs::path& path, const StageState& state) {
  fs::create_directories(path.parent_path());
  atomic_write(path, to_json(state) + "\n");
}

fs::path started_file(const StageConfig& stage) { return stage.folder / "started.json"; }

// What an unfinished stage has made that cannot be had again in a moment, or that stands in the way
// of new settings.
bool holds_work(const RunConfig& run, const StageConfig& stage) {
  if (const auto* work = std::get_if<PrepareStage>(&stage.work)) return fs::exists(work->product);
  if (std::holds_alternative<CorpusStage>(stage.work))
    return std::ranges::any_of(run.corpora, [](const CorpusConfig& corpus) {
      return corpus.built && fs::exists(corpus.build.output / data::kManifestName);
    });
  return !checkpoint::list_entries(stage.checkpoints()).empty();
}

bool lies_in(const fs::path& path, const fs::path& folder) {
  const fs::path way = fs::weakly_canonical(path).lexically_relative(fs::weakly_canonical(folder));
  return !way.empty() && *way.begin() != "..";
}

std::optional<double> optional_number(const ordered_json& json, const char* name) {
  if (!json.contains(name) || json.at(name).is_null()) return std::nullopt;
  return json.at(name).get<double>();
}

}  // namespace

std::string to_json(const StageState& state) {
  ordered_json json{{"key", state.key}, {"output", state.output}, {"seconds", state.seconds}};
  if (state.began > 0) json["began"] = state.began;
  if (state.saved) json["saved"] = true;
  if (state.held_out_before) json["held_out_before"] = *state.held_out_before;
  if (state.held_out_after) json["held_out_after"] = *state.held_out_after;
  if (state.score)
    json["score"] = {
        {"metric", state.score->metric},           {"score", state.score->score},
        {"score_baseline", state.score->baseline}, {"baseline", state.score->baseline_name},
        {"examples", state.score->examples},       {"left_out", state.score->left_out},
        {"max_length", state.score->max_length}};
  return json.dump(1);
}

StageState stage_state_from_json(const std::string& text) {
  try {
    const auto json = ordered_json::parse(text);
    StageState state;
    state.key = json.at("key");
    state.output = json.at("output");
    state.seconds = json.at("seconds");
    state.began = json.value("began", 0.0);
    state.saved = json.value("saved", false);
    state.held_out_before = optional_number(json, "held_out_before");
    state.held_out_after = optional_number(json, "held_out_after");
    if (json.contains("score")) {
      const auto& s = json.at("score");
      state.score =
          Score{s.at("metric"),          s.at("score"),    s.at("score_baseline"),
                s.at("baseline"),        s.at("examples"), s.value("left_out", std::int64_t{0}),
                s.value("max_length", 0)};
    }
    return state;
  } catch (const nlohmann::json::exception& error) {
    throw DataError(std::string("stage state is damaged: ") + error.what());
  }
}

std::optional<StageState> read_started(const StageConfig& stage) {
  return read_state(started_file(stage));
}
std::optional<StageState> read_done(const StageConfig& stage) {
  return read_state(stage.folder / "done.json");
}
void write_started(const StageConfig& stage, const StageState& state) {
  write_state(started_file(stage), state);
}

StageClock::StageClock(const StageConfig& stage, double period_seconds)
    : thread_([file = started_file(stage), period_seconds](const std::stop_token& stop) {
        std::mutex mutex;
        std::condition_variable_any stopped;
        std::unique_lock lock(mutex);
        const std::chrono::duration<double> period(period_seconds);
        while (!stopped.wait_for(lock, stop, period, [&] { return stop.stop_requested(); })) {
          std::error_code ignored;  // a clock that cannot be set costs accuracy only
          fs::last_write_time(file, fs::file_time_type::clock::now(), ignored);
        }
      }) {}

double seconds_spent(const StageConfig& stage, const StageState& started) {
  if (started.began <= 0) return started.seconds;
  const auto changed = fs::file_time_type::clock::to_sys(fs::last_write_time(started_file(stage)));
  const double last = std::chrono::duration<double>(changed.time_since_epoch()).count();
  return started.seconds + std::max(0.0, last - started.began);  // clocks may be set back
}

double unix_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}
void write_done(const StageConfig& stage, const StageState& state) {
  write_state(stage.folder / "done.json", state);
}

std::string stage_key(const RunConfig& run, const StageConfig& stage) {
  std::string text = stage.hash;
  for (const std::string& name : stage.depends_on) {
    const auto done = read_done(run.stage(name));
    if (!done)
      throw ConfigError("stage " + stage.name + " needs stage " + name + ", which is not done in " +
                        run.run_dir.string() + "; `demist run` runs the stages in order");
    text += "\n" + name + " " + done->output;
  }
  return sha256_hex(text);
}

StageStatus status_of(const RunConfig& run, const StageConfig& stage, const std::string& key) {
  if (const auto done = read_done(stage))
    return done->key == key ? StageStatus::done : StageStatus::changed;
  const auto started = read_started(stage);
  if (!started) return StageStatus::absent;
  if (started->key == key) return StageStatus::started;
  return holds_work(run, stage) ? StageStatus::changed : StageStatus::absent;
}

void reopen(const StageConfig& stage) {
  auto done = read_done(stage);
  ensure(done.has_value(), "a stage is reopened before it is done");
  done->saved = false;  // what is left of its checkpoints may be nothing
  write_started(stage, *done);
  fs::remove(stage.folder / "done.json");
}

void forget(const RunConfig& run, const StageConfig& stage) {
  if (const auto* work = std::get_if<PrepareStage>(&stage.work))
    if (lies_in(work->product, run.run_dir)) fs::remove(work->product);
  if (std::holds_alternative<CorpusStage>(stage.work))
    for (const CorpusConfig& corpus : run.corpora)
      if (corpus.built) fs::remove_all(corpus.build.output);
  fs::remove_all(stage.folder);
}

}  // namespace demist
