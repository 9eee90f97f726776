// A run's two journals as `demist status` and a replay read them: metrics.jsonl, and behind a zero
// byte events.jsonl.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "orchestrator/goodput.hpp"
#include "orchestrator/recorded_steps.hpp"
#include "orchestrator/slurm/run_lines.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace demist;

namespace {

constexpr const char* kStage = "mlm";

void read_lines(std::string_view text) {
  GoodputLines all, parts, one;
  all.read(text);
  const std::size_t half = text.find('\n', text.size() / 2);
  const std::size_t cut = half == std::string_view::npos ? 0 : half + 1;
  parts.read(text.substr(0, cut));
  fuzz::expect(parts.with(text.substr(cut)) == all.lines(), "what was read before stands");
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const auto plain = one.read_plain(line);
    fuzz::expect(!plain || *plain == one.read_any(line), "two ways to read a line agree");
  }
}

void account(std::string_view metrics, std::string_view events) {
  const Goodput g = goodput_of(metrics, events);
  for (const double part :
       {g.useful, g.start, g.data_wait, g.save, g.evaluate, g.lost, g.other, g.queued, g.idle})
    fuzz::expect(part >= 0, "no time is negative");
  fuzz::expect(format(g).starts_with("goodput "), "goodput is told");
}

void judge_run(std::string_view metrics, std::string_view events) {
  slurm::RunFacts facts;
  facts.now = 1.8e9;
  facts.host = "node1";
  facts.events = slurm::events_in(events);
  facts.progress.stage = kStage;
  facts.progress.begun = facts.progress.training = true;
  facts.progress.steps = 100;
  slurm::add_metrics(metrics, kStage, facts.progress);
  for (const double alive : {0.0, facts.now - 1}) {
    facts.progress.alive = alive;
    const slurm::RunState state = judge(facts);
    fuzz::expect(describe(state, facts).starts_with(name_of(state.activity)), "a state is told");
    worker_of(facts);
  }
}

void replay(std::string_view metrics) {
  const RecordedSteps record(metrics, kStage);
  fuzz::expect(record.end() >= 0, "steps count from 0");
  fuzz::expect(record.end() == 0 || record.last(record.end() - 1) != nullptr,
               "the last step is there");
  if (const RecordedStep* first = record.last(0)) differences({}, *first);
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view both(reinterpret_cast<const char*>(data), size);
  const std::string_view metrics = both.substr(0, both.find('\0'));
  const std::string_view events = both.substr(std::min(size, metrics.size() + 1));
  read_lines(metrics);
  read_lines(events);
  account(metrics, events);
  judge_run(metrics, events);
  replay(metrics);
  return 0;
}
