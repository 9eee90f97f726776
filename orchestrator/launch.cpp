// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/launch.hpp"

#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/file.hpp"
#include "data/reader.hpp"

namespace demist {
namespace {

using nlohmann::ordered_json;

constexpr const char* kLaunchFile = "launch.json";

void check_name(const std::string& name) {
  if (!data::is_valid_utf8(name))
    throw ConfigError(name + ": is no UTF-8, and " + kLaunchFile +
                      ", which holds what `demist resume` repeats, takes nothing else; rename the "
                      "file or folder, or choose another with --set run_dir=...");
}

}  // namespace

void check_names(const Launch& launch) {
  check_name(launch.recipe);
  for (const std::string& assignment : launch.overrides) check_name(assignment);
  check_name(launch.launcher);
  if (launch.submission) check_name(launch.submission->cluster);
}

std::string to_json(const Launch& launch) {
  ordered_json json{{"recipe", launch.recipe}, {"set", launch.overrides}};
  if (!launch.launcher.empty()) json["launcher"] = launch.launcher;
  if (!launch.stage.empty()) json["stage"] = launch.stage;
  if (const auto& s = launch.submission)
    json["submit"] = {
        {"nodes", s->nodes},     {"ntasks_per_node", s->ntasks_per_node}, {"time", s->time},
        {"cluster", s->cluster}, {"stage_jobs", s->stage_jobs},           {"chain", s->chain},
        {"since", s->since}};
  return json.dump(1);
}

Launch launch_from_json(const std::string& text) {
  try {
    const auto json = ordered_json::parse(text);
    Launch launch{json.at("recipe"), json.at("set"), std::nullopt, json.value("launcher", ""),
                  json.value("stage", "")};
    if (json.contains("submit")) {
      const auto& s = json.at("submit");
      launch.submission = Submission{s.at("nodes"),        s.at("ntasks_per_node"), s.at("time"),
                                     s.at("cluster"),      s.at("stage_jobs"),      s.at("chain"),
                                     s.value("since", 0.0)};
    }
    return launch;
  } catch (const nlohmann::json::exception& error) {
    throw DataError(std::string("the record of how the run was started is damaged: ") +
                    error.what());
  }
}

void write_launch(const fs::path& run_dir, const Launch& launch) {
  update_file(run_dir / kLaunchFile, to_json(launch) + "\n");
}

Launch read_launch(const fs::path& run_dir) {
  const fs::path file = run_dir / kLaunchFile;
  if (!fs::exists(file))
    throw ConfigError(run_dir.string() + " has no " + kLaunchFile +
                      ": it was never started by `demist run` or `demist submit`; start it so");
  return launch_from_json(read_file(file));
}

}  // namespace demist
