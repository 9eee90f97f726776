// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/goodput.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

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
