// A recipe, and overrides of it: lines "#set path=value", which are comments to protobuf.
// SPDX-License-Identifier: Apache-2.0
#include <sstream>

#include "orchestrator/config.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace demist;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text = fuzz::Input(data, size).rest();
  std::vector<std::string> overrides;
  std::istringstream lines(text);
  constexpr std::string_view mark = "#set ";
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with(mark)) overrides.push_back(line.substr(mark.size()));

  fuzz::accepts<ConfigError>([&] {
    const RunConfig config = parse_recipe(text, "folder/fuzz.textproto", overrides);
    for (const StageConfig& stage : config.stages) {
      fuzz::expect(&config.stage(stage.name) == &stage, "a stage is found by its name");
      for (const std::string& name : stage.depends_on) config.stage(name);
      if (const auto* training = std::get_if<TrainingStage>(&stage.work)) {
        for (const std::string& task : training->tasks) config.task(task);
        if (!training->on_tasks()) config.corpus(training->corpus);
      }
      if (const auto* score = std::get_if<ScoreStage>(&stage.work)) config.task(score->task);
    }
    // What the run folder holds can be run again, from anywhere.
    std::string again;
    try {
      again = parse_recipe(config.resolved, "/elsewhere/recipe.textproto", {}).resolved;
    } catch (const ConfigError& error) {
      std::fprintf(stderr, "%s\n%s\n", config.resolved.c_str(), error.what());
    }
    fuzz::expect(again == config.resolved, "a resolved recipe resolves to itself");
  });
  return 0;
}
