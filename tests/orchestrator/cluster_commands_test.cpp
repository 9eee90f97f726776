// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/file.hpp"
#include "orchestrator/bad_nodes.hpp"
#include "orchestrator/cli.hpp"
#include "orchestrator/config.hpp"
#include "orchestrator/events.hpp"
#include "orchestrator/exit_record.hpp"
#include "orchestrator/launch.hpp"
#include "orchestrator/run_folder.hpp"
#include "orchestrator/slurm/queue.hpp"
#include "orchestrator/slurm/run_facts.hpp"
#include "orchestrator/stage_state.hpp"
#include "orchestrator/stop_file.hpp"
#include "tests/support/temporary_folder.hpp"

namespace demist {
namespace {

// Commands that ask a Slurm which is a few scripts.
class ClusterCommands : public testing::Test {
 protected:
  ClusterCommands() {
    fs::create_directories(bin_);
    ::setenv("PATH", (bin_.string() + ":" + path_).c_str(), 1);
    // As of jobs that ended some minutes ago, without accounting.
    tool("scontrol", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1");
    tool("sacct", "exit 1");
    tool("squeue", "exit 0");
  }
  ~ClusterCommands() override { ::setenv("PATH", path_.c_str(), 1); }

  void tool(const std::string& name, const std::string& body) const {
    atomic_write(bin_ / name, "#!/bin/sh\ncd '" + folder_.path().string() + "'\n" + body + "\n");
    fs::permissions(bin_ / name, fs::perms::owner_all);
  }
  static std::string output(const cli::Arguments& arguments) {
    testing::internal::CaptureStdout();
    EXPECT_EQ(cli::run(cli::find_command(arguments), arguments, mpi::Comm()), 0);
    return testing::internal::GetCapturedStdout();
  }
  // The exit code of one that is refused.
  static int refusal(const cli::Arguments& arguments, std::string& words) {
    testing::internal::CaptureStdout();
    int code = 0;
    try {
      code = cli::run(cli::find_command(arguments), arguments, mpi::Comm());
    } catch (const Error& error) {
      words = error.what();
      code = static_cast<int>(error.code());
    }
    testing::internal::GetCapturedStdout();
    return code;
  }
  cli::Arguments real_submit(const cli::Arguments& options) const {
    cli::Arguments all{"submit", recipe_, "--cluster",
                       profile_, "--set", "run_dir=" + run_.string()};
    all.insert(all.end(), options.begin(), options.end());
    return all;
  }
  // Submitted two minutes ago as job 7, of which squeue shows nothing.
  void submit_into_silence() const {
    const RunConfig run = load_recipe(recipe_, {"run_dir=" + run_.string()});
    fs::create_directories(run_ / "logs");
    write_record(run);
    slurm::append_job(run_, {"7", "", unix_seconds() - 120, run.hash, "", "2", ""});
    tool("squeue", "exit 0");
    tool("scancel", "echo \"$@\" >> cancelled");
    tool("sbatch", "echo 8");
  }
  // sbatch numbers jobs from 11, and takes the third only once there is `allowed`.
  void take_two_jobs() const {
    tool(
        "sbatch",
        "last=$(wc -l < asked 2>/dev/null || echo 0)\n"
        "[ $last -lt 2 ] || [ -e allowed ] || { echo 'sbatch: error: QOSMaxSubmitJob' >&2; exit 1; "
        "}\n"
        "echo \"$*\" | sed 's|/[^ ]*/||' >> asked; echo $((last + 11))");
  }
  bool is_cancelled() const { return fs::exists(folder_.path() / "cancelled"); }
  cli::Arguments submit(const cli::Arguments& options) const {
    cli::Arguments all{
        "submit", recipe_, "--cluster", profile_, "--dry-run", "--set", "run_dir=" + run_.string()};
    all.insert(all.end(), options.begin(), options.end());
    return all;
  }

  const test::TemporaryFolder folder_;
  const fs::path bin_ = folder_.path() / "bin", run_ = folder_.path() / "run";
  const std::string path_ = std::getenv("PATH"),
                    recipe_ = std::string(DEMIST_SOURCE_DIR) + "/configs/tiny.textproto",
                    profile_ = std::string(DEMIST_SOURCE_DIR) + "/slurm/local.textproto";
};

TEST_F(ClusterCommands, ADryRunShowsEveryJobInItsOrder) {
  const std::string script = run_.string() + "/submit";
  const auto later = [](const std::string& how, const std::string& file) {
    return "### sbatch --parsable --dependency=" + how +
           ":<id of the job before> --kill-on-invalid-dep=yes " + file + "\n";
  };
  EXPECT_TRUE(
      output(submit({})).ends_with("### 1 job:\n### sbatch --parsable " + script + ".sh\n"));
  EXPECT_TRUE(output(submit({"--chain", "3"}))
                  .ends_with("### 3 jobs:\n### sbatch --parsable " + script + ".sh\n" +
                             later("afterany", script + ".sh") +
                             later("afterany", script + ".sh")));
  const std::string stages = output(submit({"--stages", "jobs"}));
  EXPECT_NE(stages.find("### 5 jobs:\n### sbatch --parsable " + script + "-tokenizer.sh\n" +
                        later("afterok", script + "-corpus.sh") +
                        later("afterok", script + "-pretrain.sh")),
            std::string::npos)
      << stages;
}

TEST_F(ClusterCommands, ATimeThatSlurmWouldRefuseIsRefused) {
  for (const char* right : {"90", "90:30", "12:00:00", "2-12", "2-12:00", "2-12:00:00"})
    EXPECT_NE(output(submit({"--time", right})).find("#SBATCH --time=" + std::string(right) + "\n"),
              std::string::npos);
  for (const char* wrong : {"nonsense", "1h", "1:2:3:4", "2-", "1-2:3:4:5", "12:", "1.5"}) {
    try {
      output(submit({"--time", wrong}));
      FAIL() << wrong;
    } catch (const ConfigError& error) {
      testing::internal::GetCapturedStdout();
      EXPECT_TRUE(std::string(error.what()).starts_with("--time " + std::string(wrong)));
    }
  }
}

TEST_F(ClusterCommands, LogsOfAQueuedJobAreWaitedFor) {
  const RunConfig run = load_recipe(recipe_, {"run_dir=" + run_.string()});
  fs::create_directories(run_ / "logs");
  write_record(run);
  slurm::append_job(run_, {"7", "", 1e9, run.hash, "", "2", ""});
  // It waits; when asked again its log is there; then it has ended.
  tool("squeue",
       "echo x >> asked\n"
       "state=COMPLETED\n"
       "case $(wc -l < asked) in 1) state=PENDING;; 2) state=PENDING; echo words > "
       "run/logs/job-7.log;; esac\n"
       "echo \"7|$state|Resources|0||N/A|(null)|\"");
  tool("sacct", "exit 1");
  testing::internal::CaptureStderr();
  EXPECT_EQ(output({"logs", run_.string(), "--follow"}), "words\n");
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("waiting for it: QUEUED (Resources)"), std::string::npos) << said;
}

TEST_F(ClusterCommands, ACopyOfAFolderLeavesTheOriginalsJobAlone) {
  const RunConfig run = load_recipe(recipe_, {"run_dir=" + run_.string()});
  fs::create_directories(run_ / "logs");
  write_record(run);
  slurm::append_job(run_, {"7", "", 1e9, run.hash, "", "2", ""});
  const fs::path copy = folder_.path() / "copy";
  fs::copy(run_, copy, fs::copy_options::recursive);
  tool("squeue", "echo \"7|PENDING|Resources|0||N/A|" +
                     slurm::job_comment(run.hash, slurm::folder_mark(run_)) + "|\"");
  tool("sacct", "exit 1");
  tool("scancel", "echo \"$@\" >> cancelled");
  tool("sbatch", "echo 8");
  output({"cancel", copy.string(), "--now"});
  EXPECT_FALSE(fs::exists(folder_.path() / "cancelled"));
  const auto again = [&](const fs::path& folder) {
    return output(
        {"submit", recipe_, "--cluster", profile_, "--set", "run_dir=" + folder.string()});
  };
  EXPECT_TRUE(again(run_).starts_with("submitted already:"));
  EXPECT_TRUE(again(copy).starts_with("job 8: "));
  const fs::path other = folder_.path() / "other";
  fs::copy(copy, other, fs::copy_options::recursive);
  EXPECT_TRUE(output({"resume", other.string()}).starts_with("job 8: "));
  EXPECT_EQ(slurm::read_jobs(other).size(), 3U);
  output({"cancel", run_.string(), "--now"});
  EXPECT_EQ(read_file(folder_.path() / "cancelled"), "7\n");
}

TEST_F(ClusterCommands, AJobThatAccountingCallsAliveIsAliveWhateverSqueueShows) {
  submit_into_silence();
  tool("scontrol", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1");
  tool("sacct", "echo '7|PENDING|0:0|00:00:00|None assigned'");
  EXPECT_NE(output({"status", run_.string()}).find("QUEUED"), std::string::npos);
  EXPECT_TRUE(output(real_submit({})).starts_with("submitted already:\njob 7"));
  tool("sacct", "echo '7|RUNNING|0:0|00:01:00|n[1-2]'");
  EXPECT_NE(output({"status", run_.string()}).find("STARTING"), std::string::npos);
  EXPECT_TRUE(output(real_submit({})).starts_with("submitted already:\njob 7"));
  output({"cancel", run_.string(), "--now"});
  EXPECT_TRUE(fs::exists(run_ / kStopFile));
  EXPECT_EQ(read_file(folder_.path() / "cancelled"), "7\n");
  // What waits is cancelled, and what runs has time to save.
  for (const char* state : {"PENDING", "REQUEUED", "SUSPENDED", "RESIZING", "RUNNING"}) {
    fs::remove(run_ / kStopFile);
    fs::remove(folder_.path() / "cancelled");
    tool("sacct", "[ -e cancelled ] && state=CANCELLED || state=" + std::string(state) +
                      "\necho \"7|$state|0:0|00:00:00|n1\"");
    std::string words;
    const bool waits = state[0] == 'P' || state == std::string("REQUEUED");
    EXPECT_EQ(refusal({"cancel", run_.string(), "--wait", waits ? "60" : "0"}, words),
              waits ? 0 : static_cast<int>(ExitCode::environment))
        << state;
    EXPECT_TRUE(fs::exists(run_ / kStopFile)) << state;
    EXPECT_TRUE(is_cancelled()) << state;
  }
}

TEST_F(ClusterCommands, AJobThatTheControllerShowsIsAsItSays) {
  submit_into_silence();
  tool("scontrol",
       "echo 'JobId=7 JobName=x JobState=PENDING Reason=Priority Dependency=(null) Restarts=0 "
       "StartTime=Unknown NodeList=(null) Comment=(null)'");
  EXPECT_NE(output({"status", run_.string()}).find("QUEUED (Priority)"), std::string::npos);
  EXPECT_TRUE(output(real_submit({})).starts_with("submitted already:\njob 7"));
  // Somebody else's by now.
  tool("scontrol", "echo 'JobId=7 JobName=x JobState=RUNNING Reason=None Comment=demist:another'");
  EXPECT_NE(output({"status", run_.string()}).find("FAILED"), std::string::npos);
  output({"cancel", run_.string(), "--now"});
  EXPECT_FALSE(is_cancelled());
}

TEST_F(ClusterCommands, AJobThatTheControllerDoesNotKnowIsGone) {
  submit_into_silence();
  tool("sacct", "echo '7|RUNNING|0:0|00:01:00|n[1-2]'");  // as accounting may say for ever
  const std::string said = output({"status", run_.string()});
  EXPECT_NE(said.find("FAILED (job 7 left the queue without a word"), std::string::npos) << said;
  EXPECT_TRUE(output(real_submit({})).starts_with("job 8: "));
}

TEST_F(ClusterCommands, OfAJobThatNobodyTellsOfNothingIsKnown) {
  submit_into_silence();
  tool("scontrol", "echo x >> asked; echo 'Unable to contact slurm controller' >&2; exit 1");
  tool("sacct", "exit 0");
  const std::string said = output({"status", run_.string()});
  EXPECT_NE(said.find("UNKNOWN (squeue does not show job 7, scontrol gives no answer: Unable to "
                      "contact slurm controller, sacct knows nothing of it)"),
            std::string::npos)
      << said;
  constexpr int environment = static_cast<int>(ExitCode::environment);
  std::string words;
  EXPECT_EQ(refusal(real_submit({}), words), environment);
  EXPECT_NE(words.find("squeue does not show job 7"), std::string::npos) << words;
  EXPECT_EQ(slurm::read_jobs(run_).size(), 1U);
  EXPECT_EQ(refusal({"cancel", run_.string()}, words), environment);
  EXPECT_TRUE(fs::exists(run_ / kStopFile));
  EXPECT_FALSE(is_cancelled());
  // Its script has told of its end: nobody need be asked.
  fs::remove(folder_.path() / "asked");
  append_event(run_, "job_start", {{"job", "7"}});
  append_event(run_, "job_end", {{"job", "7"}, {"code", 75}, {"reason", "cancelled; saved"}});
  EXPECT_NE(output({"status", run_.string()}).find("STOPPED"), std::string::npos);
  EXPECT_TRUE(output(real_submit({})).starts_with("job 8: "));
  EXPECT_FALSE(fs::exists(folder_.path() / "asked"));
}

TEST_F(ClusterCommands, WhatSbatchRefusedIsSubmittedByTheSameCommandLater) {
  take_two_jobs();
  // All that were submitted live.
  tool("squeue",
       "for job in $(cut -f 1 run/jobs.tsv | grep -v job); do "
       "echo \"$job|PENDING|Dependency|0||N/A|(null)|\"; done");
  const auto stages = real_submit({"--stages", "jobs"});
  std::string words;
  EXPECT_EQ(refusal(stages, words), static_cast<int>(ExitCode::environment));
  EXPECT_NE(words.find("QOSMaxSubmitJob"), std::string::npos) << words;
  EXPECT_NE(words.find("queued all the same: job 11 (stage tokenizer), job 12 (stage corpus); not "
                       "submitted: stages pretrain, adapt, score. The same command"),
            std::string::npos)
      << words;
  EXPECT_NE(output({"status", run_.string()})
                .find("not submitted: stages pretrain, adapt, score; demist resume"),
            std::string::npos);
  EXPECT_EQ(nlohmann::json::parse(
                output({"status", "--json", run_.string()}))["not_submitted"]["stages"][0],
            "pretrain");
  EXPECT_EQ(refusal(stages, words), static_cast<int>(ExitCode::environment)) << "still refused";
  EXPECT_EQ(slurm::read_jobs(run_).size(), 2U);
  atomic_write(folder_.path() / "allowed", "");
  const std::string said = output(stages);
  EXPECT_NE(said.find("job 12 (stage corpus): 1 nodes\nsubmitted now, what was missing:\njob 13 "
                      "(stage pretrain)"),
            std::string::npos)
      << said;
  const std::string how = "--parsable --dependency=afterok:";
  EXPECT_EQ(read_file(folder_.path() / "asked"),
            "--parsable submit-tokenizer.sh\n" + how +
                "11 --kill-on-invalid-dep=yes submit-corpus.sh\n" + how +
                "12 --kill-on-invalid-dep=yes submit-pretrain.sh\n" + how +
                "13 --kill-on-invalid-dep=yes submit-adapt.sh\n" + how +
                "14 --kill-on-invalid-dep=yes submit-score.sh\n");
  EXPECT_EQ(output({"status", run_.string()}).find("not submitted"), std::string::npos);
  EXPECT_TRUE(output(stages).starts_with("submitted already:\njob 11 "));
  EXPECT_EQ(slurm::read_jobs(run_).size(), 5U);
}

TEST_F(ClusterCommands, TheRecordOfAWaitingJobStays) {
  submit_into_silence();
  tool("squeue", "echo '7|PENDING|Resources|0||N/A|(null)|'");
  const std::string record = read_file(run_ / "recipe.textproto");
  for (const cli::Arguments& start :
       {cli::Arguments{"run", recipe_}, {"train", recipe_, "--stage", "tokenizer"}}) {
    cli::Arguments changed = start;
    for (const std::string& setting :
         {"run_dir=" + run_.string(), std::string("checkpoint.every_steps=7")})
      changed.insert(changed.end(), {"--set", setting});
    std::string words;
    EXPECT_EQ(refusal(changed, words), static_cast<int>(ExitCode::usage));
    EXPECT_NE(words.find("job 7 is to go on from the record"), std::string::npos) << words;
  }
  EXPECT_EQ(read_file(run_ / "recipe.textproto"), record);
}

TEST_F(ClusterCommands, ARunIsResumedWithoutItsRecipe) {
  tool("squeue", "echo '8|COMPLETED|None|0||N/A|(null)|'");
  tool("sacct", "exit 1");
  tool("sbatch", "echo 8");
  output(real_submit({}));
  Launch launch = read_launch(run_);
  launch.recipe = (folder_.path() / "gone.textproto").string();
  write_launch(run_, launch);
  EXPECT_TRUE(output({"resume", run_.string()}).starts_with("job 8: "));
  EXPECT_EQ(slurm::read_jobs(run_).size(), 2U);
}

// Nodes that Slurm cannot tidy up keep a job COMPLETING; its script has ended.
TEST_F(ClusterCommands, AJobThatHasToldOfItsEndIsOver) {
  submit_into_silence();
  tool("squeue", "echo '7|COMPLETING|None|0|n1|N/A|(null)|'");
  EXPECT_TRUE(output(real_submit({})).starts_with("submitted already:"));
  append_event(run_, "job_start", {{"job", "7"}, {"restart", 0}, {"nodes", "n1"}});
  append_event(run_, "job_end", {{"job", "7"}, {"code", 5}, {"reason", "failed"}});
  EXPECT_EQ(output({"status", run_.string()}).find("STARTING"), std::string::npos);
  EXPECT_TRUE(output(real_submit({})).starts_with("job 8: "));
}

// sbatch was killed for its silence, and slurmctld has the job.
TEST_F(ClusterCommands, AJobWhoseIdWasLostIsNotSubmittedTwice) {
  tool("squeue", "cat queue 2>/dev/null; exit 0");
  tool("sbatch", "echo \"$@\" >> asked; sed -n 's/#SBATCH --comment=//p' \"$2\" > comment; exit 1");
  std::string words;
  EXPECT_EQ(refusal(real_submit({}), words), static_cast<int>(ExitCode::environment));
  EXPECT_TRUE(slurm::read_jobs(run_).empty());
  std::string comment = read_file(folder_.path() / "comment");
  std::erase_if(comment, [](char c) { return c == '\n' || c == '"' || c == '\''; });
  ASSERT_TRUE(comment.starts_with("demist:")) << comment;
  atomic_write(folder_.path() / "queue", "41|RUNNING|None|0|n1|N/A|" + comment + "\n");
  EXPECT_EQ(refusal(real_submit({}), words), static_cast<int>(ExitCode::environment));
  EXPECT_NE(words.find("scancel 41, then try again"), std::string::npos) << words;
  const std::string asked = read_file(folder_.path() / "asked");
  EXPECT_EQ(std::count(asked.begin(), asked.end(), '\n'), 1);  // sbatch
  // Another folder's, one that is over, and one that is known.
  for (const std::string& row :
       {"41|RUNNING|None|0|n1|N/A|" + comment.substr(0, 20) + "0000000000ab",
        "41|COMPLETING|None|0|n1|N/A|" + comment}) {
    atomic_write(folder_.path() / "queue", row + "\n");
    tool("sbatch", "echo 42");
    fs::remove(run_ / "jobs.tsv");
    EXPECT_TRUE(output(real_submit({})).starts_with("job 42: "));
  }
}

TEST_F(ClusterCommands, AChainThatSbatchCutIsMadeWhole) {
  take_two_jobs();
  // The first one has ended, as links of a chain do.
  tool("squeue",
       "echo '11|COMPLETED|None|0|n1|N/A|(null)|'; for job in $(cut -f 1 run/jobs.tsv | "
       "grep -v -e job -e 11); do echo \"$job|PENDING|Dependency|0||N/A|(null)|\"; done");
  const auto chain = real_submit({"--chain", "4"});
  std::string words;
  EXPECT_EQ(refusal(chain, words), static_cast<int>(ExitCode::environment));
  EXPECT_NE(words.find("queued all the same: job 11, job 12; not submitted: 2 jobs. "),
            std::string::npos)
      << words;
  EXPECT_NE(output({"status", run_.string()}).find("not submitted: 2 jobs; "), std::string::npos);
  atomic_write(folder_.path() / "allowed", "");
  // Another number of links is another wish; a run that is asked to stop gets no more of them.
  EXPECT_TRUE(output(real_submit({"--chain", "9"})).starts_with("submitted already:"));
  atomic_write(run_ / kStopFile, "");
  EXPECT_TRUE(output(chain).starts_with("submitted already:"));
  EXPECT_EQ(slurm::read_jobs(run_).size(), 2U);
  fs::remove(run_ / kStopFile);
  EXPECT_NE(output({"resume", run_.string()}).find("what was missing:\njob 13"), std::string::npos);
  const std::string how = "--parsable --dependency=afterany:",
                    script = " --kill-on-invalid-dep=yes submit.sh\n";
  EXPECT_EQ(read_file(folder_.path() / "asked"), "--parsable submit.sh\n" + how + "11" + script +
                                                     how + "12" + script + how + "13" + script);
  EXPECT_EQ(output({"status", run_.string()}).find("not submitted"), std::string::npos);
  output(chain);
  EXPECT_EQ(slurm::read_jobs(run_).size(), 4U);
}

TEST_F(ClusterCommands, ARequestOfBeforeDoesNotEndARunInTheAllocationOfAShell) {
  fs::create_directories(run_);
  ::setenv("SLURM_JOB_ID", "7", 1);
  for (const bool in_batch_script : {true, false}) {
    if (in_batch_script) ::setenv("DEMIST_JOB_LOG", (run_ / "log").c_str(), 1);
    atomic_write(run_ / kStopFile, "");
    // The stage before it is not done, so that nothing is started.
    EXPECT_THROW(output({"run", recipe_, "--launcher", "srun", "--stage", "corpus", "--set",
                         "run_dir=" + run_.string()}),
                 Error);
    testing::internal::GetCapturedStdout();
    EXPECT_EQ(fs::exists(run_ / kStopFile), in_batch_script);
    ::unsetenv("DEMIST_JOB_LOG");
  }
  ::unsetenv("SLURM_JOB_ID");
}

TEST_F(ClusterCommands, AJobIsNotKeptOffNodesThatItNeeds) {
  tool("sinfo", "for node in n1 n2 n3 n4; do echo 'cpu*' $node idle; done; echo 'big n5 idle'");
  tool("sbatch", "echo 8");
  fs::create_directories(run_);
  for (const char* node : {"n2", "n3"}) add_bad_node(run_, node, "it failed");
  const std::string kept = read_file(run_ / "bad-nodes");
  testing::internal::CaptureStderr();
  EXPECT_NE(output(submit({"--nodes", "2"})).find("#SBATCH --exclude=n2,n3\n"), std::string::npos);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  testing::internal::CaptureStderr();
  EXPECT_NE(output(submit({"--nodes", "3-4"})).find("#SBATCH --exclude=n3\n"), std::string::npos);
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("needs 3 nodes, and too few others work: of those in bad-nodes, n2 has"),
            std::string::npos)
      << said;
  EXPECT_EQ(read_file(run_ / "bad-nodes"), kept) << "a dry run changes nothing";
  output({"submit", recipe_, "--cluster", profile_, "--nodes", "5", "--set",
          "run_dir=" + run_.string()});
  EXPECT_TRUE(read_bad_nodes(run_).empty()) << "the job would leave them out when it runs";
  const std::string script = read_file(run_ / "submit.sh");
  EXPECT_EQ(script.find("--exclude"), std::string::npos);
  EXPECT_NE(read_file(run_ / "events.jsonl").find("node_tried_again"), std::string::npos);
}

TEST_F(ClusterCommands, AnInspectorHearsWhatIsNew) {
  fs::create_directories(run_);
  write_record(load_recipe(recipe_, {"run_dir=" + run_.string()}));
  slurm::Inspector inspector(run_);
  const auto events = [&] { return inspector.look().facts.events; };
  EXPECT_EQ(events().started, 0);
  const nlohmann::ordered_json who{{"host", "elsewhere"}, {"process", 42}};
  append_event(run_, "run_start", who);
  EXPECT_TRUE(events().open);
  EXPECT_TRUE(events().open);
  nlohmann::ordered_json end = who;
  end["code"] = 3;
  append_event(run_, "run_end", end);
  EXPECT_FALSE(events().open);
  EXPECT_EQ(events().code, 3);
  fs::remove(run_ / kEventFile);
  EXPECT_EQ(events().started, 0);
}

TEST_F(ClusterCommands, LogsTellWhyARankFailedThatSaidNothing) {
  fs::create_directories(run_ / "logs");
  write_record(load_recipe(recipe_, {"run_dir=" + run_.string()}));
  std::string words;
  EXPECT_EQ(refusal({"logs", run_.string(), "--errors"}, words), 2);
  EXPECT_NE(words.find("no log tells of an error; NEW (nothing has begun)"), std::string::npos)
      << words;
  const nlohmann::ordered_json who{{"host", "n1"}, {"process", 42}};
  append_event(run_, "run_start", who);
  ExitRecord record{unix_seconds() - 1e5, "tokenizer", 0, "n1", ExitCode::data, "of before"};
  write_exit_record(run_, record);
  EXPECT_EQ(refusal({"logs", run_.string(), "--errors"}, words), 2);
  record = {unix_seconds(), "pretrain", 1, "n2", ExitCode::suspect, "it was killed by SIGKILL"};
  write_exit_record(run_, record);
  const std::string reason = "stage pretrain, rank 1 on n2: it was killed by SIGKILL\n";
  EXPECT_EQ(output({"logs", run_.string(), "--errors"}), reason);
  atomic_write(run_ / "logs" / "rank-0001.log", "2026-01-01T00:00:01Z step 3\n");
  testing::internal::CaptureStderr();
  EXPECT_EQ(output({"logs", run_.string(), "--errors"}), reason + "2026-01-01T00:00:01Z step 3\n");
  EXPECT_NE(testing::internal::GetCapturedStderr().find("rank-0001.log"), std::string::npos);
}

// Works in a folder of its own while it lives.
class WorkingFolder {
 public:
  explicit WorkingFolder(const fs::path& folder) { fs::current_path(folder); }
  ~WorkingFolder() { fs::current_path(before_); }
  WorkingFolder(const WorkingFolder&) = delete;
  WorkingFolder& operator=(const WorkingFolder&) = delete;

 private:
  const fs::path before_ = fs::current_path();
};

TEST_F(ClusterCommands, AStatusOfAllRunsPassesOverThoseThatItCannotRead) {
  const WorkingFolder here(folder_.path());
  const auto make = [&](const std::string& name) {
    fs::create_directories("runs/" + name);
    write_record(load_recipe(recipe_, {"run_dir=runs/" + name}));
  };
  make("b");
  // A list, of one run too; of a run that is named, an object.
  const auto parsed = [&](const cli::Arguments& arguments) {
    return nlohmann::json::parse(output(arguments));
  };
  EXPECT_EQ(parsed({"status", "--json"}).at(0)["state"], "NEW");
  EXPECT_EQ(parsed({"status", "--json", "b"})["state"], "NEW");
  make("c");
  for (const char* name : {"a", "bb"}) fs::create_directories("runs/" + std::string(name));
  atomic_write("runs/a/recipe.textproto", "");
  atomic_write("runs/bb/recipe.textproto", read_file("runs/b/recipe.textproto") + "new_field: 3\n");
  const auto list = parsed({"status", "--json"});
  ASSERT_EQ(list.size(), 4U);
  EXPECT_EQ(list[0]["state"], "UNREADABLE");
  EXPECT_EQ(list[2]["run"], "runs/bb");
  EXPECT_NE(list[2]["detail"].get<std::string>().find("new_field"), std::string::npos);
  EXPECT_EQ(list[3]["state"], "NEW");
  const std::string text = output({"status"});
  EXPECT_NE(text.find("runs/bb: UNREADABLE ("), std::string::npos) << text;
  EXPECT_NE(text.find("runs/c: NEW"), std::string::npos) << text;
  std::string words;
  EXPECT_EQ(refusal({"status", "bb"}, words), 2);
  EXPECT_EQ(refusal({"status", "no"}, words), 2);
  EXPECT_NE(words.find("neither no nor runs/no holds"), std::string::npos) << words;
  EXPECT_EQ(refusal({"status", "/no"}, words), 2);
  EXPECT_EQ(words, "there is no run '/no': it holds no recipe.textproto");
}

TEST_F(ClusterCommands, LogsOfNothingAreNotWaitedFor) {
  const RunConfig run = load_recipe(recipe_, {"run_dir=" + run_.string()});
  fs::create_directories(run_);
  write_record(run);
  EXPECT_THROW(output({"logs", run_.string(), "--follow"}), ConfigError);
  testing::internal::GetCapturedStdout();
}

}  // namespace
}  // namespace demist
