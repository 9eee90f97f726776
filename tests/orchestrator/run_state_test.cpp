// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/slurm/run_state.hpp"

#include <gtest/gtest.h>

#include "orchestrator/slurm/run_lines.hpp"

namespace demist::slurm {
namespace {

constexpr double kNow = 1e9;

QueueRow row(const std::string& state, const std::string& reason = "None", int restarts = 0) {
  return {"7", state, reason, "", "", restarts, ""};
}

// A submitted run, five minutes after sbatch, with nothing known of it yet.
RunFacts submitted() {
  RunFacts facts;
  facts.now = kNow;
  facts.job = Job{"7", "", kNow - 300, "hash", "", "4", ""};
  facts.queue_answered = true;
  return facts;
}

// The same in the middle of a training stage.
RunFacts training() {
  RunFacts facts = submitted();
  facts.row = row("RUNNING");
  facts.events.job = "7";
  facts.events.job_started = kNow - 200;
  facts.events.started = kNow - 199;
  facts.events.in_job = true;
  facts.events.open = true;
  RunProgress& p = facts.progress;
  p.stage = "pretrain";
  p.training = p.saved = true;
  p.step = 120;
  p.steps = 300;
  p.loss = 6.41;
  p.seconds_per_step = 0.5;
  p.tokens_per_second = 12300;
  p.last_line = kNow - 1;
  p.alive = kNow - 1;
  return facts;
}

RunFacts ended(RunFacts facts, int code, const std::string& reason) {
  facts.row.reset();
  facts.events.open = false;
  facts.events.ended = facts.events.job_ended = kNow - 10;
  facts.events.code = facts.events.job_code = code;
  facts.events.job_reason = reason;
  return facts;
}

Activity activity(const RunFacts& facts) { return judge(facts).activity; }

TEST(RunState, FollowsAJobThroughTheQueue) {
  RunFacts facts = submitted();
  facts.row = row("PENDING", "Resources");
  EXPECT_EQ(activity(facts), Activity::queued);
  EXPECT_EQ(describe(judge(facts), facts), "QUEUED (Resources)");
  facts.row = row("RUNNING");
  EXPECT_EQ(activity(facts), Activity::starting);
  facts = training();
  EXPECT_EQ(describe(judge(facts), facts),
            "TRAINING pretrain 120/300, loss 6.41, 12.3k tok/s, ETA 1:30");
  facts.progress.training = false;
  EXPECT_EQ(activity(facts), Activity::running);
}

TEST(RunState, ASignalMeansSavingAndThenTheQueueAgain) {
  RunFacts facts = training();
  facts.events.asked = kNow - 5;
  EXPECT_EQ(activity(facts), Activity::saving);
  facts = ended(facts, 75, "");
  facts.row = row("PENDING", "BeginTime", 1);
  facts.row->start = "2026-11-23T13:30:14";
  EXPECT_EQ(activity(facts), Activity::requeued);
  EXPECT_NE(judge(facts).detail.find("13:30:14"), std::string::npos);
}

TEST(RunState, AnEmptyAnswerRightAfterSubmissionIsNoFailure) {
  RunFacts facts = submitted();
  facts.job->submitted = kNow - 2;
  EXPECT_EQ(activity(facts), Activity::queued);
  facts.job->submitted = kNow - 300;
  EXPECT_EQ(activity(facts), Activity::failed);
  EXPECT_NE(judge(facts).detail.find("without a word"), std::string::npos);
}

TEST(RunState, WithoutAnAnswerTheHeartbeatDecides) {
  RunFacts facts = training();
  facts.row.reset();
  facts.queue_answered = false;
  facts.queue_problem = "slurmctld is busy";
  EXPECT_EQ(activity(facts), Activity::training);
  facts.progress.alive = facts.progress.last_line = kNow - 3600;
  EXPECT_EQ(activity(facts), Activity::unknown);
  EXPECT_NE(judge(facts).detail.find("slurmctld is busy"), std::string::npos);
  // A newer job is not judged by the old one's end, and by STOP no more.
  facts = ended(training(), 75, "cancelled; saved");
  facts.queue_answered = false;
  EXPECT_EQ(activity(facts), Activity::stopped);
  facts.job->submitted = kNow - 100;
  facts.stop_file = true;
  EXPECT_EQ(activity(facts), Activity::unknown);
}

TEST(RunState, SilenceIsAStall) {
  RunFacts facts = training();
  facts.progress.last_line = kNow - 100;
  EXPECT_EQ(activity(facts), Activity::stalled);
  facts.progress.seconds_per_step = 30;  // then a step may take that long
  EXPECT_EQ(activity(facts), Activity::training);
  facts.progress.alive = facts.progress.last_line = kNow - 100;
  EXPECT_EQ(activity(facts), Activity::stalled);
}

TEST(RunState, EndsAreToldApart) {
  EXPECT_EQ(activity(ended(training(), 3, "another attempt would end alike")), Activity::failed);
  EXPECT_EQ(activity(ended(training(), 75, "cancelled; saved")), Activity::stopped);
  EXPECT_EQ(judge(ended(training(), 75, "cancelled; saved")).detail,
            "saved work stands; demist resume goes on");
  EXPECT_EQ(judge(ended(training(), 75, "its time limit ended it")).detail,
            "its time limit ended it; saved work stands; demist resume goes on");
  RunFacts unsaved = ended(training(), 75, "cancelled; saved");
  unsaved.progress.saved = false;
  EXPECT_EQ(judge(unsaved).detail, "nothing is saved yet; demist resume begins anew");
  RunFacts facts = ended(training(), 0, "done");
  facts.unsent = "stages adapt, score";
  EXPECT_EQ(judge(facts).detail,
            "never submitted: stages adapt, score; saved work stands; demist resume goes on");
  facts = ended(training(), 137, "three attempts in a row saved nothing new");
  facts.events.failed = kNow - 12;
  facts.events.cause = "rank 3 on node2: out of memory";
  EXPECT_EQ(describe(judge(facts), facts),
            "FAILED pretrain 120/300 (rank 3 on node2: out of memory)");
  facts.account = AccountRow{"7", "OUT_OF_MEMORY", "0:125", "00:03:00", "node[1-4]", ""};
  EXPECT_NE(judge(facts).detail.find("OUT_OF_MEMORY"), std::string::npos);
  facts.account->state = "CANCELLED";
  EXPECT_EQ(activity(facts), Activity::stopped);
  facts.progress.done = true;
  EXPECT_EQ(activity(facts), Activity::done);
}

TEST(RunState, AJobThatWasKilledCanGoOn) {
  RunFacts facts = training();
  facts.row = row("FAILED", "JobLaunchFailure");
  EXPECT_EQ(judge(facts).activity, Activity::failed);
  EXPECT_EQ(judge(facts).detail,
            "Slurm: FAILED (JobLaunchFailure); saved work stands; demist resume goes on");
  facts.row = row("TIMEOUT", "TimeLimit");
  EXPECT_EQ(judge(facts).detail,
            "Slurm: TIMEOUT (TimeLimit); saved work stands; demist resume goes on");
}

TEST(RunState, ANewJobIsNotJudgedByTheOldOnesEnd) {
  RunFacts facts = ended(training(), 3, "");
  facts.job->submitted = kNow - 1;
  facts.events.job_started = facts.events.started = kNow - 500;
  facts.events.ended = facts.events.job_ended = kNow - 400;
  EXPECT_EQ(activity(facts), Activity::queued);
}

TEST(RunState, WorksWithoutSlurm) {
  RunFacts facts = training();
  facts.job.reset();
  facts.row.reset();
  facts.queue_answered = false;
  facts.events.in_job = false;
  facts.events.job_started = 0;
  facts.process_lives = true;
  EXPECT_EQ(activity(facts), Activity::training);
  facts.process_lives = false;
  EXPECT_EQ(activity(facts), Activity::failed);
  EXPECT_NE(judge(facts).detail.find("without a word"), std::string::npos);
  facts.process_lives.reset();  // it runs on another host
  EXPECT_EQ(activity(facts), Activity::training);
  EXPECT_EQ(activity(RunFacts{}), Activity::fresh);
  RunFacts by_hand;  // `demist train` under a user's mpirun leaves no events
  by_hand.now = kNow;
  by_hand.progress = training().progress;
  by_hand.progress.begun = true;
  by_hand.progress.began = kNow - 90;
  EXPECT_EQ(activity(by_hand), Activity::training);
  by_hand.progress.alive = by_hand.progress.last_line = kNow - 100;
  EXPECT_EQ(activity(by_hand), Activity::stopped);
}

// After a supervised run that ended well; `demist train` under a user's mpirun leaves no events.
RunFacts by_hand_after_a_run() {
  RunFacts facts;
  facts.now = kNow;
  facts.host = "here";
  facts.events.started = kNow - 9000;
  facts.events.ended = kNow - 8000;
  facts.progress = training().progress;
  facts.progress.begun = true;
  facts.progress.began = kNow - 100;
  return facts;
}

TEST(RunState, ItsLockTellsOfATrainByHand) {
  RunFacts facts = by_hand_after_a_run();
  facts.lock = LockHolder{true, kNow - 101, "here", 42};
  EXPECT_EQ(activity(facts), Activity::training);
  ASSERT_TRUE(worker_of(facts));
  EXPECT_EQ(worker_of(facts)->process, 42);
  EXPECT_TRUE(worker_of(facts)->by_hand);
  facts.progress.last_line = kNow - 7000;  // it begins: no step of its own yet
  EXPECT_EQ(activity(facts), Activity::starting);
  facts.progress.alive = kNow - 95;
  EXPECT_EQ(activity(facts), Activity::stalled) << "stopped, perhaps, but it holds the lock";
  facts.stop_file = true;
  EXPECT_EQ(activity(facts), Activity::saving);
  facts.progress.training = false;
  EXPECT_EQ(activity(facts), Activity::saving) << "stages without steps hear it as well";
}

TEST(RunState, ATrainByHandEndsWithItsLock) {
  RunFacts facts = by_hand_after_a_run();
  facts.lock = LockHolder{false, kNow - 101, "here", 42};
  EXPECT_EQ(activity(facts), Activity::stopped) << "killed a second ago";
  EXPECT_FALSE(worker_of(facts));
  facts.lock->host = "elsewhere";  // whose locks may not be seen here
  EXPECT_EQ(activity(facts), Activity::training);
  ASSERT_TRUE(worker_of(facts));
  EXPECT_EQ(worker_of(facts)->host, "elsewhere");
  facts.progress.began = 0;  // it ended by itself
  EXPECT_EQ(activity(facts), Activity::stopped);
  EXPECT_FALSE(worker_of(facts));
}

TEST(RunState, WhomToEndIsKnown) {
  RunFacts facts = training();
  EXPECT_FALSE(worker_of(facts)) << "that is the job";
  facts.job.reset();
  facts.row.reset();
  facts.events.in_job = false;
  facts.events.host = "there";
  facts.events.process = 7;
  ASSERT_TRUE(worker_of(facts));
  EXPECT_EQ(worker_of(facts)->process, 7);
  EXPECT_FALSE(worker_of(facts)->by_hand);
  facts.process_lives = false;  // and its ranks go on without it
  facts.lock = LockHolder{true, kNow - 101, "there", 42};
  EXPECT_EQ(worker_of(facts)->process, 42);
}

TEST(RunEvents, ASecondSupervisorThatIsRefusedDoesNotHideTheFirst) {
  const std::string first =
                        R"({"time":1,"event":"run_start","host":"a","process":10,"srun":false})",
                    second =
                        R"({"time":2,"event":"run_start","host":"a","process":11,"srun":false})",
                    refused = R"({"time":3,"event":"run_end","host":"a","process":11,"code":5})",
                    end = R"({"time":4,"event":"run_end","host":"a","process":10,"code":0})";
  RunEvents events = events_in(first + "\n" + second + "\n" + refused + "\n{\"time\":");
  EXPECT_EQ(events.process, 10);
  EXPECT_TRUE(events.open);
  events = events_in(first + "\n" + second + "\n" + refused + "\n" + end + "\n");
  EXPECT_FALSE(events.open);
  EXPECT_EQ(events.code, 0);
  EXPECT_EQ(events.ended, 4);
}

TEST(RunEvents, TheFirstCauseIsThatOfTheLastFailedAttempt) {
  const std::string failed = R"({"time":5,"event":"attempt_ended","code":76,"rank":3,"host":"n2",)"
                             R"("cause":"out of memory"})",
                    saved = R"({"time":6,"event":"attempt_ended","code":75})";
  const RunEvents events = events_in(failed + "\n" + saved + "\n");
  EXPECT_EQ(events.failed, 5);
  EXPECT_EQ(events.cause, "rank 3 on n2: out of memory");
}

TEST(RunEvents, MetricsGiveStepAndRateSinceTheLastStart) {
  RunProgress progress;
  const std::string step = R"({"event":"step","stage":"mlm","time":9,"loss":2.5,"tokens":100,)";
  add_metrics(step + R"("step":1,"seconds":100})" + "\n" +
                  R"({"event":"start","stage":"mlm","step":1,"time":8,"ranks":2})" + "\n" + step +
                  R"("step":2,"seconds":0.5})" + "\n" + step + R"("step":3,"seconds":1.5})" + "\n" +
                  R"({"event":"step","stage":"other","step":9,"time":99,"loss":1})",
              "mlm", progress);
  EXPECT_EQ(progress.step, 3);
  EXPECT_DOUBLE_EQ(progress.seconds_per_step, 1);
  EXPECT_DOUBLE_EQ(progress.tokens_per_second, 100);
  EXPECT_DOUBLE_EQ(progress.last_line, 9);
}

TEST(RunEvents, NumbersThatNoFieldHoldsAreAsGoodAsNone) {
  EXPECT_EQ(events_in(R"({"time":5,"event":"job_end","code":1e300})").job_code, 0);
  EXPECT_EQ(events_in(R"({"time":5,"event":"job_end","code":4294967301})").job_code, 0);
  RunProgress progress;
  add_metrics(R"({"event":"step","stage":"mlm","step":1e300,"time":9,"loss":1})", "mlm", progress);
  EXPECT_EQ(progress.step, 0);
  EXPECT_DOUBLE_EQ(progress.last_line, 9);
}

}  // namespace
}  // namespace demist::slurm
