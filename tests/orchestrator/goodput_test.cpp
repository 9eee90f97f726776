// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/goodput.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "core/file.hpp"
#include "orchestrator/metrics_file.hpp"
#include "tests/support/temporary_folder.hpp"

namespace demist {
namespace {

using nlohmann::json;

// A run whose clock is moved by hand.
class Story {
 public:
  Story& wait(double seconds) {
    now_ += seconds;
    return *this;
  }
  Story& metric(json line) {
    line["time"] = now_;
    line["stage"] = "mlm";
    metrics_ += line.dump() + "\n";
    return *this;
  }
  Story& event(json line) {
    line["time"] = now_;
    events_ += line.dump() + "\n";
    return *this;
  }
  Story& step(int step, double seconds, double load_seconds = 0) {
    return wait(seconds).metric(
        {{"event", "step"}, {"step", step}, {"seconds", seconds}, {"load_seconds", load_seconds}});
  }
  Story& note(const char* name) { return event({{"event", name}}); }
  Story& attempt() { return event({{"event", "attempt"}}); }
  Story& ended(int code, bool again = false) {
    return event({{"event", "attempt_ended"}, {"code", code}, {"again", again}});
  }
  Goodput goodput() const {
    const Goodput g = goodput_of(metrics_, events_);
    EXPECT_NEAR(g.working() + g.queued + g.idle, now_ - 1000, 1e-9) << "every second has its place";
    return g;
  }

 private:
  double now_ = 1000;
  std::string metrics_, events_;
};

TEST(Goodput, AnUndisturbedRun) {
  Story story;
  story.attempt().wait(2).metric({{"event", "start"}}).wait(1);
  story.step(1, 10, 0.5).step(2, 10);
  story.wait(3).metric({{"event", "held_out"}, {"step", 2}, {"seconds", 3}});
  story.wait(4).metric({{"event", "save"}, {"step", 2}, {"seconds", 4}});
  story.wait(0.25).ended(0);
  const Goodput g = story.goodput();
  EXPECT_DOUBLE_EQ(g.useful, 19.5);
  EXPECT_DOUBLE_EQ(g.start, 3);
  EXPECT_DOUBLE_EQ(g.data_wait, 0.5);
  EXPECT_DOUBLE_EQ(g.evaluate, 3);
  EXPECT_DOUBLE_EQ(g.save, 4);
  EXPECT_DOUBLE_EQ(g.other, 0.25);
  EXPECT_DOUBLE_EQ(g.lost + g.idle, 0);
  EXPECT_DOUBLE_EQ(g.share(), 19.5 / 30.25);
}

TEST(Goodput, AFailureCostsWhatIsDoneAgain) {
  Story story;
  story.attempt().wait(1).step(1, 10).step(2, 10).wait(4).ended(76, true);
  story.wait(5).attempt().wait(1).step(2, 10).step(3, 10).ended(0);
  const Goodput g = story.goodput();
  EXPECT_DOUBLE_EQ(g.useful, 30);
  EXPECT_DOUBLE_EQ(g.lost, 10 + 4 + 5);
  EXPECT_DOUBLE_EQ(g.start, 2);
  EXPECT_DOUBLE_EQ(g.idle, 0);
}

TEST(Goodput, TimeInAQueueIsTold) {
  Story story;
  story.note("submitted").wait(3000).note("job_start").wait(2).note("run_start").wait(1);
  story.attempt().wait(1).step(1, 10).ended(75);
  story.note("job_requeue").wait(500).note("job_start").wait(3).note("run_start");
  story.attempt().wait(1).step(2, 10).ended(75);
  story.note("job_end").wait(40000).note("submitted").wait(70).note("job_start").note("run_start");
  story.attempt().wait(1).step(3, 10).ended(0);
  const Goodput g = story.goodput();
  EXPECT_DOUBLE_EQ(g.queued, 3000 + 500 + 70);
  EXPECT_DOUBLE_EQ(g.idle, 40000);
  EXPECT_DOUBLE_EQ(g.start, 3 + 1 + 3 + 1 + 1);
  EXPECT_DOUBLE_EQ(g.useful, 30);
}

TEST(Goodput, WhenNobodyWorksItIsIdle) {
  Story story;
  story.note("run_start").attempt().wait(1).step(1, 10).ended(75);
  story.wait(5000).note("run_start").wait(2).attempt().wait(1).step(2, 10).ended(0);
  EXPECT_DOUBLE_EQ(story.goodput().idle, 5000);
  EXPECT_DOUBLE_EQ(story.goodput().start, 4);
  Story lost_machine;  // nobody wrote how the first attempt ended
  lost_machine.attempt().wait(1).step(1, 10).wait(5000).attempt().wait(1).step(2, 10).ended(0);
  EXPECT_DOUBLE_EQ(lost_machine.goodput().idle, 5000);
  Story lost_in_a_pause;  // it was to go on after a failure
  lost_in_a_pause.attempt().wait(1).step(1, 10).ended(76, true).wait(5000).note("run_start");
  lost_in_a_pause.attempt().wait(1).step(2, 10).ended(0);
  EXPECT_DOUBLE_EQ(lost_in_a_pause.goodput().idle, 5000);
}

TEST(Goodput, WhatIsRefusedOrWaitsBesideTheWorkChangesNothing) {
  Story story;
  story.attempt().wait(1).step(1, 10).note("submitted").wait(2).note("run_start").note("run_end");
  story.step(2, 8, 0);
  EXPECT_DOUBLE_EQ(story.goodput().useful, 18);
  EXPECT_DOUBLE_EQ(story.goodput().idle + story.goodput().queued, 0);
}

TEST(Goodput, StepsThatWereNotAppliedAreLost) {
  Story story;
  story.attempt().wait(1).step(1, 10).wait(10);
  story.metric({{"event", "step"}, {"step", 2}, {"seconds", 10}, {"skipped", "not_finite"}});
  EXPECT_DOUBLE_EQ(story.goodput().lost, 10);
}

TEST(Goodput, StagesThatDoNotTrainAreUsefulWhenTheyEndWell) {
  EXPECT_DOUBLE_EQ(Story().attempt().wait(60).ended(0).goodput().useful, 60);
  EXPECT_DOUBLE_EQ(Story().attempt().wait(60).ended(3).goodput().lost, 60);
}

TEST(Goodput, FilesThatAreAbsentOrCutAreNoError) {
  const test::TemporaryFolder folder;
  EXPECT_EQ(goodput_of(folder.path()).working(), 0);
  EXPECT_EQ(goodput_of(R"({"event":"step","ti)", "\n\n[1]\n").working(), 0);
  EXPECT_EQ(goodput_of("", "").share(), 0);
}

TEST(Goodput, ALineOfAnotherKindIsPassedOver) {
  const std::string good = R"({"event":"step","stage":"a","step":1,"time":20,"seconds":10})";
  for (const char* bad : {R"({"event":7,"time":3})", R"({"event":"step","time":null})",
                          R"({"event":"step","stage":5,"step":1,"time":9,"seconds":1})"})
    EXPECT_EQ(goodput_of(good + "\n" + bad + "\n", "").useful, 10) << bad;
}

TEST(Goodput, AWaitIsAPartOfItsStep) {
  for (const char* wait : {"-5", "-5.0", "-1e+09"}) {
    const std::string line = R"({"event":"step","step":1,"time":20,"seconds":10,"load_seconds":)";
    EXPECT_EQ(goodput_of(line + wait + "}", "").data_wait, 0) << wait;
    EXPECT_EQ(goodput_of(line + " " + wait + "}", "").useful, 10) << wait;
  }
}

// What step_line and event_line write, and what may become of it.
TEST(Goodput, PlainLinesReadAsByTheFullParser) {
  const std::vector<std::string> seeds = {
      R"({"event":"step","stage":"mlm","step":1,"time":1764531200.1234567,"loss":5.1,"tokens":8192,)"
      R"("seconds":0.25,"load_seconds":1e-05,"rescaled":false,"skipped":"spike","rollbacks":2})",
      R"({"event":"step","stage":"mlm","step":2,"time":1764531201,"loss":null,"seconds":-0,"load_seconds":0.3})",
      R"({"time":1764531200.5,"event":"attempt_ended","code":76,"again":true,"cause":"a \"word\"","rank":3})",
      R"({"time":12345678901234567890123,"event":"start","step":9223372036854775807,"seconds":1E+2})",
      R"({"time":1e400,"event":"save","stage":"a","stage":"b","step":7.5,"x":{"y":[1]}})",
  };
  constexpr std::string_view bytes = "\"\\{}[]:,.eE+-0129 tfn\n\x01\xc3";
  GoodputLines lines;
  std::mt19937 chance(1);
  int plain = 0;
  for (int i = 0; i < 200000; ++i) {
    std::string line = seeds[chance() % seeds.size()];
    for (std::uint32_t edits = chance() % 4; edits > 0 && !line.empty(); --edits) {
      const std::size_t at = chance() % line.size();
      switch (chance() % 4) {
        case 0:
          line[at] = bytes[chance() % bytes.size()];
          break;
        case 1:
          line.insert(at, 1, bytes[chance() % bytes.size()]);
          break;
        case 2:
          line.erase(at, 1 + chance() % 3);
          break;
        default:
          line.resize(at + 1);
      }
    }
    const auto found = lines.read_plain(line);
    plain += found ? 1 : 0;
    EXPECT_TRUE(!found || *found == lines.read_any(line)) << line;
  }
  EXPECT_GT(plain, 10000);
  EXPECT_TRUE(lines.read_plain(seeds[0])) << "the usual line is read by the full parser";
}

TEST(Goodput, WhatTheProgramWritesIsPlain) {
  GoodputLines lines;
  StepReport report;
  report.loss = std::nan("");
  for (const std::string& line :
       {step_line("mlm", report, 0.125, 0.25), held_out_line("mlm", 3, 1.5, 2),
        event_line("mlm", "save", 5, {2, 1, "cpu avx512"}, 0.5)})
    EXPECT_TRUE(lines.read_plain(line)) << line;
}

TEST(Goodput, AReaderGoesOnWhereItWas) {
  const test::TemporaryFolder folder;
  const auto write = [&folder](const std::string& text, std::ios::openmode mode) {
    std::ofstream(folder.path() / "metrics.jsonl", mode) << text;
  };
  const auto step = [](int number, int time) {
    return json{{"event", "step"}, {"step", number}, {"time", time}, {"seconds", 10}}.dump();
  };
  GoodputReader reader(folder.path());
  EXPECT_EQ(reader.read().working(), 0);
  write(step(1, 1010) + "\n" + step(2, 1020) + "\n" + step(3, 1030), std::ios::trunc);
  EXPECT_EQ(reader.read().useful, 30);
  EXPECT_EQ(reader.read().useful, 30) << "the unfinished line is counted once";
  write("\n" + step(3, 1040) + "\n" + step(4, 1050).substr(0, 20), std::ios::app);
  EXPECT_EQ(reader.read().useful, 30);
  EXPECT_EQ(reader.read().lost, 10);
  write(step(1, 1010) + "\n", std::ios::trunc);  // begun anew
  EXPECT_EQ(reader.read().useful, 10);
}

TEST(GrowingFile, EachLineIsReadOnce) {
  const test::TemporaryFolder folder;
  const fs::path path = folder.path() / "lines";
  GrowingFile file(path);
  const auto news = [&file] {
    std::string text = file.begins_anew() ? "anew " : "";
    file.read([&text](std::string_view lines) { text += lines; });
    return text;
  };
  EXPECT_EQ(news(), "");
  atomic_write(path, "one\ntwo\nthr");
  EXPECT_EQ(news(), "one\ntwo\n");
  EXPECT_EQ(file.unfinished(), "thr");
  std::ofstream(path, std::ios::app) << "ee\n";
  EXPECT_EQ(news(), "three\n");
  EXPECT_EQ(file.unfinished(), "");
  EXPECT_EQ(news(), "");
  std::ofstream(path, std::ios::in).write("ONE\nTWO\nTHREE\n", 14);  // of the same length
  EXPECT_EQ(news(), "anew ONE\nTWO\nTHREE\n");
  atomic_write(path, "ONE\nTWO\nTHREE\nfour\n");  // another file, even if it begins alike
  EXPECT_EQ(news(), "anew ONE\nTWO\nTHREE\nfour\n");
  fs::remove(path);
  EXPECT_EQ(news(), "anew ");
  const std::string longer =
      std::string(std::size_t{3} << 20, 'x') + "\n" + std::string(3000000, 'y');
  atomic_write(path, longer);
  EXPECT_EQ(news().size(), (std::size_t{3} << 20) + 1);
  EXPECT_EQ(file.unfinished().size(), 3000000);
}

TEST(Goodput, ReadsWell) {
  Goodput g;
  g.useful = 3600;
  g.start = 10;
  g.lost = 90;
  EXPECT_EQ(format(g),
            "goodput 97.3 %: 1:00:00 of 1:01:40 useful; start 0:10, data 0:00, save 0:00, evaluate "
            "0:00, lost 1:30, other 0:00");
  g.queued = 60;
  g.idle = 3;
  EXPECT_TRUE(format(g).ends_with("; queued 1:00; idle 0:03"));
}

}  // namespace
}  // namespace demist
