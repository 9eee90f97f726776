// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/slurm/job_script.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <regex>
#include <thread>

#include "core/error.hpp"
#include "core/file.hpp"
#include "orchestrator/process.hpp"
#include "orchestrator/slurm/allocation.hpp"
#include "orchestrator/slurm/profile.hpp"
#include "orchestrator/slurm/queue.hpp"
#include "tests/support/temporary_folder.hpp"

namespace demist::slurm {
namespace {

JobPlan plan() {
  JobPlan p;
  p.name = "r1";
  p.recipe_hash = "0123456789abcdef";
  p.run_dir = "/s/it's/r1";
  p.program = "/opt/demist";
  p.working_folder = "/s";
  p.nodes = {2, 4};
  p.ntasks_per_node = 8;
  p.profile = parse_profile("time: \"1:00:00\" environment: \"NCCL_DEBUG=WARN\"", "c");
  return p;
}

bool has_line(const std::string& script, const std::string& line) {
  return ("\n" + script).find("\n" + line + "\n") != std::string::npos;
}

TEST(JobScript, AsksForWhatThePlanSays) {
  JobPlan p = plan();
  std::string script = job_script(p);
  EXPECT_TRUE(has_line(script, "#SBATCH --nodes=2-4"));
  EXPECT_TRUE(has_line(script, "#SBATCH --mincpus=8"));
  EXPECT_EQ(script.find("#SBATCH --ntasks-per-node"), std::string::npos)
      << "it would pin the range to 2";
  EXPECT_TRUE(has_line(script, "#SBATCH --signal=B:USR2@300"));
  EXPECT_TRUE(has_line(script, "#SBATCH --requeue"));
  EXPECT_TRUE(has_line(script, "#SBATCH --comment=demist:0123456789ab:" + folder_mark(p.run_dir)));
  EXPECT_TRUE(has_line(script, "run='/s/it'\\''s/r1'"));
  EXPECT_TRUE(has_line(script, "export NCCL_DEBUG=WARN"));
  EXPECT_TRUE(has_line(script, "  --ranks-per-node 8 --min-nodes 2)"));
  EXPECT_TRUE(has_line(script, "supervisor=(/opt/demist run '/s/it'\\''s/r1'"));
  EXPECT_TRUE(has_line(script, "  --recorded --expect 0123456789abcdef"))
      << "the user may edit his recipe while the job waits, runs or is requeued";
  p.nodes = {3, 3};
  p.chained = true;
  p.avoid = {"n7"};
  p.stage = "adapt";
  p.profile.sbatch = {"-x n[1-2]", "--exclusive"};
  script = job_script(p);
  EXPECT_TRUE(has_line(script, "#SBATCH --nodes=3"));
  EXPECT_TRUE(has_line(script, "#SBATCH --ntasks-per-node=8"));
  EXPECT_TRUE(has_line(script, "#SBATCH --no-requeue"));
  EXPECT_TRUE(has_line(script, "#SBATCH --exclude=n[1-2],n7")) << "of two options one would hold";
  EXPECT_TRUE(has_line(script, "#SBATCH --exclusive"));
  EXPECT_EQ(script.find("#SBATCH -x"), std::string::npos);
  EXPECT_TRUE(has_line(script, "  --stage adapt)"));
  p.profile = parse_profile("stop_seconds: 0", "c");
  EXPECT_EQ(job_script(p).find("#SBATCH --signal"), std::string::npos);
}

// The script itself, run by bash with a supervisor and a Slurm that are shell functions.
class JobScriptRun : public testing::Test {
 protected:
  // `supervisor`: what stands for `demist run`; returns the script's exit code.
  int run(const std::string& supervisor, bool chained = false,
          const std::string& state = "RUNNING") {
    const fs::path bin = folder_.path() / "bin", run_dir = folder_.path() / "run";
    fs::create_directories(bin);
    fs::create_directories(run_dir / "logs");
    JobPlan p = plan();
    p.run_dir = run_dir.string();
    p.program = (bin / "demist").string();
    p.chained = chained;
    p.profile.modules = modules_;
    p.profile.setup = setup_;
    if (!never_on_.empty()) p.profile.sbatch.push_back("--exclude=" + never_on_);
    tool("demist", supervisor);
    // Of one job its state, without one the ids of those that wait.
    tool("srun", srun_);
    tool(
        "squeue",
        R"(case " $* " in *" -O "*) echo 'RUNNING|0|n2|';; *" %N "*) echo n1,n2;; *" -j "*) echo )" +
            state + ";; *) echo 5 demist:0123456789ab:1; echo 8 " +
            job_comment(p.recipe_hash, folder_mark(run_dir)) + ";; esac");
    tool("sinfo", "printf '%s up\\n' n1 n2 n3 n4; echo n5 'down*'");
    // The real one ends the script.
    tool("scontrol", "echo \"$@\" >> " + (folder_.path() / "scontrol").string() +
                         R"(; case $1 in requeue) )" + requeue_ +
                         R"(;; show) echo "${3//,/$'\n'}";; )" + "update) " + update_ + ";; esac");
    tool("sleep", sleep_);
    atomic_write(folder_.path() / "before.sh", before_);
    atomic_write(folder_.path() / "job.sh", job_script(p));
    said_ = capture_process({{"bash", (folder_.path() / "job.sh").string()},
                             {{"PATH", bin.string() + ":/usr/bin:/bin"},
                              {"SLURM_JOB_ID", job_},
                              {"SLURM_RESTART_COUNT", std::to_string(restarts_)},
                              {"SLURM_JOB_NODELIST", "n[1-2]"},
                              {"SLURM_JOB_NUM_NODES", std::to_string(job_nodes_)},
                              {"SLURMD_NODENAME", "n1"},
                              {"BASH_ENV", (folder_.path() / "before.sh").string()},
                              {"COUNT", (folder_.path() / "count").string()},
                              {"RUN", run_dir.string()}}},
                            60);
    return said_.code;
  }
  void tool(const std::string& name, const std::string& body) const {
    const fs::path file = folder_.path() / "bin" / name;
    atomic_write(file, "#!/bin/bash\n" + body + "\n");
    fs::permissions(file, fs::perms::owner_all);
  }
  std::string events() const { return read_file(folder_.path() / "run/events.jsonl"); }
  bool requeued() const { return has_line(asked(), "requeue 7"); }
  std::string asked() const {  // scontrol
    const fs::path file = folder_.path() / "scontrol";
    return fs::exists(file) ? read_file(file) : "";
  }
  // The run's jobs with the nodes that they want, and nodes that turned bad, the first one first.
  void prepare(const std::vector<std::pair<std::string, std::string>>& jobs,
               const std::vector<std::string>& bad) const {
    const fs::path run_dir = folder_.path() / "run";
    fs::create_directories(run_dir);
    for (const auto& [id, nodes] : jobs)
      append_job(run_dir, {id, "", 1e9, "0123456789abcdef", "", nodes, ""});
    for (const std::string& node : bad) add_bad_node(run_dir, node, "it died");
  }

  int restarts_ = 0, job_nodes_ = 1;
  std::vector<std::string> modules_, setup_;
  std::string never_on_, update_ = "true", requeue_ = "kill $PPID", sleep_ = "exit 0",
                         srun_ = "exit 1", job_ = "7",
                         before_;  // before_: what bash reads before the script
  const test::TemporaryFolder folder_;
  Captured said_;
};

TEST_F(JobScriptRun, EndsWithTheSupervisorsSuccess) {
  EXPECT_EQ(run("exit 0"), 0) << said_.error;
  EXPECT_NE(events().find(R"("event":"job_end","job":"7","restart":0,"code":0)"), std::string::npos)
      << events();
}

TEST_F(JobScriptRun, ModulesAndSetupThatFailEndTheJobWithAReason) {
  const fs::path count = folder_.path() / "count";
  modules_ = {"good", "missing"};
  before_ =
      R"(module() { [ "$2" != missing ] || { printf 'no "such"\n module\\\n' >&2; return 1; }; })";
  EXPECT_EQ(run("touch $COUNT"), 2);
  EXPECT_NE(
      events().find(R"("code":2,"reason":"module missing cannot be loaded: no such module"})"),
      std::string::npos)
      << events();
  before_ = "module() { echo 'ModuleCmd_Load.c(213):ERROR:105: no modulefile' >&2; }";
  EXPECT_EQ(run("touch $COUNT"), 2) << "versions before 4 end with code 0";
  before_ = "module() { echo loaded >&2; }";
  EXPECT_EQ(run("exit 0"), 0) << said_.error;
  modules_.clear();
  setup_ = {"[ -z \"$no_such_variable\" ]", "for i in 1 2; do", "x=$i", "done", ". /no/such/file"};
  EXPECT_EQ(run("touch $COUNT"), 2);
  EXPECT_NE(events().find("a line of the profile's setup ended with code 1: . /no/such/file"),
            std::string::npos)
      << events() << said_.error;
  EXPECT_FALSE(fs::exists(count));
  setup_ = {"export x=1; set -e", "kill -USR2 $$", ". /no/such/file || true"};
  EXPECT_EQ(run("exit 0"), 128 + SIGTERM) << "requeued without an attempt";
}

TEST_F(JobScriptRun, AnEventDoesNotContinueAPartOfOne) {
  fs::create_directories(folder_.path() / "run");
  atomic_write(folder_.path() / "run/events.jsonl", R"({"time":1,"ev)");
  EXPECT_EQ(run("exit 0"), 0) << said_.error;
  EXPECT_TRUE(events().starts_with("{\"time\":1,\"ev\n{\"time\":")) << events();
}

TEST_F(JobScriptRun, DoesNotRepeatWhatWouldEndAlike) {
  for (const int code : {1, 3}) {
    fs::remove(folder_.path() / "count");
    EXPECT_EQ(run("echo x >> $COUNT; exit " + std::to_string(code)), code);
    EXPECT_EQ(read_file(folder_.path() / "count"), "x\n");
  }
}

TEST_F(JobScriptRun, StartsAgainAsLongAsItGetsFurther) {
  // Five crashes, each after something new was saved; then three in vain.
  EXPECT_EQ(run("echo x >> $COUNT; n=$(wc -l < $COUNT); [ $n -gt 5 ] || { mkdir -p "
                "$RUN/s/checkpoints; echo $n > $RUN/s/checkpoints/LATEST; }; exit 137"),
            137);
  EXPECT_EQ(read_file(folder_.path() / "count").size(), 2U * 8);
  EXPECT_NE(said_.output.find("saved nothing new"), std::string::npos) << said_.output;
}

TEST_F(JobScriptRun, ASignalIsPassedOnAndTheJobComesBack) {
  run("trap 'exit 75' USR2; kill -USR2 $PPID; while :; do read -t 0.05 <> <(:); done");
  EXPECT_TRUE(requeued());
  EXPECT_NE(events().find(R"("event":"job_signal","job":"7","restart":0,"signal":"USR2")"),
            std::string::npos)
      << events();
  EXPECT_NE(events().find("job_requeue"), std::string::npos);
}

TEST_F(JobScriptRun, ASignalBetweenAttemptsStartsNoOther) {
  sleep_ = "kill -USR2 $PPID";
  run("echo x >> $COUNT; exit 137");
  EXPECT_TRUE(requeued());
  EXPECT_EQ(read_file(folder_.path() / "count"), "x\n");
}

TEST_F(JobScriptRun, AnAttemptThatBeginsWithASignalIsTold) {
  before_ = "[ \"$0\" != '" + (folder_.path() / "job.sh").string() + "' ] || { set -T\n" +
            R"(trap '[ "$BASH_COMMAND" != "pid=\$!" ] || kill -USR2 $$' DEBUG)" + "\n}\n";
  run("for i in {1..60}; do read -t 0.05 <> <(:); done; touch $COUNT");
  EXPECT_TRUE(requeued()) << said_.output << said_.error;
  EXPECT_FALSE(fs::exists(folder_.path() / "count")) << "it went on to its end";
}

TEST_F(JobScriptRun, AJobThatItsTimeLimitEndedIsNotTakenForCancelled) {
  run("exit 75", false, "COMPLETING TimeLimit");
  EXPECT_TRUE(requeued());
  requeue_ = "exit 1";
  EXPECT_EQ(run("exit 75", false, "COMPLETING TimeLimit"), 75);
  EXPECT_NE(events().find("its time limit ended it, and it cannot be requeued any more"),
            std::string::npos)
      << events();
}

TEST_F(JobScriptRun, RequeuesThatLeadSomewhereAreNotCounted) {
  const std::string saves = "mkdir -p $RUN/s/checkpoints; date +%N >> $RUN/s/checkpoints/LATEST; ";
  for (restarts_ = 100; restarts_ < 115; ++restarts_)
    EXPECT_EQ(run(saves + "exit 75"), 128 + SIGTERM);
  for (int i = 0; i < 9; ++i) EXPECT_EQ(run("exit 75"), 128 + SIGTERM);
  fs::remove(folder_.path() / "scontrol");
  EXPECT_EQ(run("exit 75"), 75);
  EXPECT_FALSE(requeued());
  EXPECT_NE(events().find("requeued 10 times in a row, and nothing new was saved"),
            std::string::npos)
      << events();
  job_ = "9";  // demist resume
  EXPECT_EQ(run("exit 75"), 128 + SIGTERM);
}

TEST_F(JobScriptRun, ACancelledJobStaysAway) {
  EXPECT_EQ(run("exit 75", false, "COMPLETING"), 75);
  EXPECT_FALSE(requeued());
  EXPECT_EQ(run("touch $RUN/STOP; exit 75"), 0);
  EXPECT_FALSE(requeued());
  EXPECT_EQ(run("exit 9"), 0) << "STOP is still there";
}

TEST_F(JobScriptRun, AQueryThatFailsCancelsNothing) {
  run("exit 75", false, "; exit 1");
  EXPECT_TRUE(requeued());
}

TEST_F(JobScriptRun, ARequeuedJobIsKeptOffNodesThatTurnedBad) {
  prepare({{"7", "2-4"}}, {"n3"});
  never_on_ = "n9";
  run("exit 75");
  EXPECT_TRUE(requeued());
  EXPECT_TRUE(has_line(asked(), "update JobId=7 ExcNodeList=n9,n3")) << asked() << said_.error;
  EXPECT_NE(said_.output.find("job 7 is kept off nodes: n9,n3"), std::string::npos);
  // Its lines deleted, a node is well again.
  atomic_write(folder_.path() / "run/bad-nodes", "");
  run("exit 75");
  EXPECT_TRUE(has_line(asked(), "update JobId=7 ExcNodeList=n9")) << asked() << said_.error;
}

TEST_F(JobScriptRun, NodesThatAJobCannotDoWithoutHaveAnotherChance) {
  prepare({{"7", "3-4"}}, {"n1", "n2", "n4"});
  run("exit 75");
  EXPECT_TRUE(has_line(asked(), "update JobId=7 ExcNodeList=n4")) << asked() << said_.error;
  EXPECT_EQ(read_bad_nodes(folder_.path() / "run"), std::vector<std::string>{"n4"});
  EXPECT_NE(events().find(R"("event":"node_tried_again","job":"7","restart":0,"node":"n1")"),
            std::string::npos)
      << events();
}

TEST_F(JobScriptRun, WhatSlurmRefusesCostsAJobNothing) {
  prepare({{"7", "2"}}, {"n3"});
  update_ = "echo refused >&2; exit 1";
  EXPECT_EQ(run("exit 75"), 128 + SIGTERM) << "ended by the requeue";
  EXPECT_TRUE(requeued());
  EXPECT_NE(said_.output.find("may be given bad nodes (n3): refused"), std::string::npos);
}

TEST_F(JobScriptRun, WaitingJobsOfTheRunAreKeptOffNodesThatTurnedBad) {
  prepare({{"5", "2"}, {"7", "2"}, {"8", "2"}}, {"n3"});
  EXPECT_EQ(run("exit 75", true), 75);
  EXPECT_EQ(asked(), "update JobId=8 ExcNodeList=n3\n")
      << "5 is of the folder that this one was copied from";
}

TEST_F(JobScriptRun, AnotherNodeRequeuesAJobThatLostItsFirst) {
  job_nodes_ = 2;
  srun_ = "echo \"$@\" >> $RUN/srun; while [ \"$1\" != bash ]; do shift; done; exec \"$@\"";
  const std::string until =
      "for i in {1..600}; do grep -sq '^WORD 7' ${RUN%/run}/scontrol && exit 0; "
      "read -t 0.05 <> <(:); done; exit 1";
  EXPECT_EQ(run(std::regex_replace(until, std::regex("WORD"), "requeue")), 0) << said_.error;
  EXPECT_NE(read_file(folder_.path() / "run/srun").find("--nodelist=n2"), std::string::npos);
  EXPECT_NE(events().find(R"("event":"first_node_lost","job":"7","restart":0,"node":"n1")"),
            std::string::npos)
      << events();
  tool("scancel", "echo cancelled $@ >> " + (folder_.path() / "scontrol").string());
  EXPECT_EQ(run(std::regex_replace(until, std::regex("WORD"), "cancelled"), true), 0)
      << "the next of a chain goes on";
}

TEST_F(JobScriptRun, TheWatchOnTheFirstNodeEndsWithTheJob) {
  const fs::path begun = folder_.path() / "run/begun", ended = folder_.path() / "run/ended";
  srun_ =
      "trap 'echo > $RUN/ended; exit' TERM; echo > $RUN/begun; "
      "for i in {1..2000}; do read -t 0.05 <> <(:); done";
  EXPECT_EQ(run("exit 0"), 0);
  EXPECT_FALSE(fs::exists(begun)) << "one node has no other to watch it";
  job_nodes_ = 2;
  EXPECT_EQ(run("until [ -e $RUN/begun ]; do read -t 0.05 <> <(:); done; exit 0"), 0);
  for (int i = 0; i < 1000 && !fs::exists(ended); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_TRUE(fs::exists(ended));
}

TEST_F(JobScriptRun, AChainLeavesTheRestToItsNextJob) {
  EXPECT_EQ(run("exit 75", true), 75);
  EXPECT_FALSE(requeued());
}

TEST(NodeRange, Reads) {
  EXPECT_EQ(parse_node_range("4").text(), "4");
  EXPECT_EQ(parse_node_range("2-4").text(), "2-4");
  EXPECT_EQ(parse_node_range("2-2").text(), "2");
  for (const char* wrong : {"", "0", "4-2", "2-", "-2", "a", "2-4k"})
    EXPECT_THROW(parse_node_range(wrong), ConfigError) << wrong;
}

}  // namespace
}  // namespace demist::slurm
