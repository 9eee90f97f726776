// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <thread>

#include "core/error.hpp"
#include "core/file.hpp"
#include "orchestrator/bad_nodes.hpp"
#include "orchestrator/launch.hpp"
#include "orchestrator/process.hpp"
#include "orchestrator/slurm/allocation.hpp"
#include "orchestrator/slurm/partition.hpp"
#include "orchestrator/slurm/profile.hpp"
#include "orchestrator/slurm/queue.hpp"
#include "orchestrator/slurm/run_logs.hpp"
#include "tests/support/temporary_folder.hpp"

namespace demist::slurm {
namespace {

std::string error_of(const std::string& profile) {
  try {
    (void)parse_profile(profile, "c.textproto");
    return "";
  } catch (const ConfigError& error) {
    return error.what();
  }
}

TEST(Profile, TheExampleIsRead) {
  const std::string file = std::string(DEMIST_SOURCE_DIR) + "/configs/clusters/example.textproto";
  const Profile profile = find_profile(file);
  EXPECT_EQ(profile.ntasks_per_node, 8);
  EXPECT_EQ(profile.sbatch.front(), "--partition=gpu");
  EXPECT_NE(std::find(profile.sbatch.begin(), profile.sbatch.end(), "--exclusive"),
            profile.sbatch.end());
  EXPECT_EQ(profile.srun.front(), "--mpi=pmix");
  EXPECT_EQ(profile.stop_signal, "USR2");
}

TEST(Profile, MistakesAreNamedWithPlaceAndRemedy) {
  EXPECT_EQ(error_of("partion: \"x\""),
            "c.textproto:1:1: partion: unknown field of Cluster; did you mean 'partition'?");
  EXPECT_EQ(error_of("\ntime: \"a day\""),
            "c.textproto:2:1: time: \"a day\" is no time; write \"12:00:00\" or \"2-00:00:00\"");
  EXPECT_NE(error_of("environment: \"A=1\"\nenvironment: \"B\"").find("c.textproto:2:1: "),
            std::string::npos);
  for (const char* wrong : {"stop_signal: KILL", "ntasks_per_node: 0", "srun: \"--a b\"",
                            "sbatch: \"gpu\"", "modules: \"a; rm -rf x\"", "container {}",
                            "max_requeues: -1", "time: 5", "stop_seconds: 59", "stop_seconds: -1"})
    EXPECT_NE(error_of(wrong).find("c.textproto:1:"), std::string::npos) << wrong;
  EXPECT_THROW(find_profile("no_such_cluster"), ConfigError);
}

TEST(Profile, FormsOfValues) {
  for (const char* right :
       {"time: '5'", "time: '12:00:00'", "time: '2-0'", "time: '2-00:00:00'", "sbatch: '-Aa b'",
        "sbatch: '--x'", "srun: '-n4'", "srun: '--cpu-bind=cores'", "modules: 'gcc/12.2+x'",
        "environment: '_a1=b c=d'", "environment: 'A='"})
    EXPECT_EQ(error_of(right), "") << right;
  for (const char* wrong : {"time: '1:2:3:4'",      "time: '1-2-3'",
                            "time: '-1'",           "time: '1:'",
                            "time: '1-'",           "time: '1 '",
                            "sbatch: '-'",          "sbatch: '--'",
                            "sbatch: '---a'",       "sbatch: '-1'",
                            "sbatch: '--a\\nb'",    "sbatch: ''",
                            "srun: '--a\\tb'",      "srun: 'a'",
                            "modules: ''",          "modules: 'a b'",
                            "modules: 'a$b'",       "modules: 'a\\'b'",
                            "environment: '=a'",    "environment: '1A=a'",
                            "environment: 'A-B=a'", "environment: 'A=a\\nb'",
                            "environment: 'A'"})
    EXPECT_NE(error_of(wrong).find("c.textproto:1:1: "), std::string::npos) << wrong;
}

TEST(Profile, ALongValueIsReadOrRefusedInOneShortLine) {
  const std::string many(1u << 20, '1');
  for (const std::string& right :
       {"time: '" + many + "'", "sbatch: '--a" + many + "'", "srun: '--a" + many + "'",
        "modules: '" + many + "'", "environment: 'A" + many + "=" + many + "'"})
    EXPECT_EQ(error_of(right).substr(0, 100), "");
  for (const char* field : {"time", "sbatch", "srun", "modules", "environment"}) {
    const std::string message = error_of(std::string(field) + ": '" + many + " ;'");
    EXPECT_TRUE(message.starts_with("c.textproto:1:1: " + std::string(field) + ": \"1111"));
    EXPECT_LT(message.size(), 500u);
  }
}

TEST(Profile, ContainersAreOfOneWordEach) {
  for (const char* runtime : {"PYXIS", "APPTAINER"})
    for (const char* wrong :
         {"image: '/my images/a.sif'", "image: 'a\\tb'", "image: 'a' mounts: '/my data:/data'",
          "image: 'a' mounts: '/a:/a' mounts: ''"})
      EXPECT_NE(error_of("container { runtime: " + std::string(runtime) + " " + wrong + " }")
                    .find("c.textproto:1:1: container: "),
                std::string::npos)
          << wrong;
  EXPECT_EQ(error_of("container { image: '/images/a.sif' mounts: '/a:/a,/b:/b' }"), "");
}

TEST(Profile, ContainersStandWhereTheirRuntimeLooks) {
  const Profile pyxis = parse_profile("container { image: \"i.sqsh\" mounts: \"/a:/a\" }", "c");
  EXPECT_EQ(pyxis.srun.at(1), "--container-image=i.sqsh");
  EXPECT_TRUE(pyxis.container.empty());
  const Profile apptainer =
      parse_profile("container { image: \"i.sif\" runtime: APPTAINER } gpus_per_node: \"8\"", "c");
  EXPECT_EQ(apptainer.container.front(), "apptainer");
  EXPECT_EQ(apptainer.container.back(), "i.sif");
  EXPECT_NE(std::find(apptainer.container.begin(), apptainer.container.end(), "--nv"),
            apptainer.container.end());
}

TEST(Allocation, CrewsAreTheNodesThatWork) {
  const std::vector<Node> nodes = parse_nodes(
      "n1 allocated\nn1 allocated\nn2 mixed*\nn3 down\nn4 mixed\nn5 allocated\nn6 draining\n");
  EXPECT_EQ(nodes.size(), 6U);
  Crew crew = choose_crew(nodes, {}, {8, 1, 1});
  EXPECT_EQ(crew.nodes, (std::vector<std::string>{"n1", "n4", "n5"}));
  EXPECT_EQ(crew.ranks, 24);
  EXPECT_EQ(choose_crew(nodes, {"n4"}, {8, 1, 1}).nodes, (std::vector<std::string>{"n1", "n5"}));
  // Tensor-parallel groups of two ranks need two of these nodes.
  EXPECT_EQ(choose_crew(nodes, {}, {1, 1, 2}).nodes, (std::vector<std::string>{"n1", "n4"}));
  try {
    choose_crew(nodes, {}, {1, 4, 1});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::requeue);
    EXPECT_NE(std::string(error.what()).find("n2, n3, n6"), std::string::npos) << error.what();
  }
}

// With a squeue and a sinfo that are scripts.
class AllocationQueries : public testing::Test {
 protected:
  AllocationQueries() {
    ::setenv("SLURM_JOB_ID", "7", 1);
    ::setenv("PATH", (folder_.path().string() + ":" + path_).c_str(), 1);
    tool("sinfo", "echo n1 allocated; echo n2 allocated");
    patience_.first_pause = patience_.longest_pause = 0.01;
  }
  ~AllocationQueries() override {
    ::unsetenv("SLURM_JOB_ID");
    ::setenv("PATH", path_.c_str(), 1);
  }
  void tool(const std::string& name, const std::string& body) const {
    const fs::path file = folder_.path() / name;
    atomic_write(file, "#!/bin/sh\ncd '" + folder_.path().string() + "'\n" + body + "\n");
    fs::permissions(file, fs::perms::owner_all);
  }
  Crew next(const StopAsked& stop_asked) const {
    return Allocation(folder_.path(), {1, 1, 1}, patience_).next(stop_asked);
  }
  std::size_t tries() const { return read_file(folder_.path() / "tries").size() / 2; }

  const test::TemporaryFolder folder_;
  const std::string path_ = std::getenv("PATH");
  QueryPatience patience_;
};

TEST_F(AllocationQueries, AControllerThatComesBackIsWaitedFor) {
  tool("squeue",
       "echo x >> tries\n"
       "case $(wc -l < tries) in 1 | 2) echo 'Unable to contact slurm controller' >&2; exit 1;;\n"
       "3) ;; *) echo 'n[1-2]';; esac");
  EXPECT_EQ(next([] { return false; }).nodes.size(), 2U);
  EXPECT_EQ(tries(), 4U) << "an empty answer is none";
  EXPECT_GE(QueryPatience{}.total, 600);
}

TEST_F(AllocationQueries, NodesOfAControllerThatHasJustStartedAreWaitedFor) {
  tool("squeue", "echo 'n[1-2]'");
  tool("sinfo",
       "echo x >> tries\n"
       "case $(wc -l < tries) in 1) state=unknown;; 2) state='unknown*';; *) state=mixed;; esac\n"
       "echo n1 $state; echo n2 mixed");
  EXPECT_EQ(next([] { return false; }).nodes.size(), 2U);
  EXPECT_EQ(tries(), 3U);
  // One that stays unknown is done without.
  tool("sinfo", "echo n1 unknown; echo n2 mixed");
  patience_.unknown = 0.05;
  EXPECT_EQ(next([] { return false; }).nodes, std::vector<std::string>{"n2"});
}

TEST_F(AllocationQueries, PatienceEnds) {
  tool("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1");
  patience_.total = 0.1;
  EXPECT_THROW(next([] { return false; }), EnvironmentError);
  // Where there is no such program no time is lost.
  patience_ = {};
  ::setenv("PATH", folder_.path().c_str(), 1);
  fs::remove(folder_.path() / "squeue");
  EXPECT_THROW(next([] { return false; }), EnvironmentError);
}

TEST_F(AllocationQueries, ARequestToStopIsHeardMeanwhile) {
  tool("squeue", "echo x >> tries; echo 'Unable to contact slurm controller' >&2; exit 1");
  patience_ = {};
  patience_.first_pause = patience_.longest_pause = 3600;
  patience_.total = 7200;
  const auto tried = [&] { return fs::exists(folder_.path() / "tries"); };
  try {
    next(tried);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::requeue);
  }
  // Also by a query that hangs.
  tool("squeue", "echo x >> tries; sleep 3600");
  patience_.answer = 3600;
  fs::remove(folder_.path() / "tries");
  EXPECT_THROW(next(tried), Error);
}

TEST(Allocation, ADrainedNodeHasNotFailed) {
  for (const char* state : {"down", "down*", "mixed*", "failing"}) {
    EXPECT_TRUE(has_failed(state)) << state;
    EXPECT_FALSE(is_usable(state)) << state;
  }
  for (const char* state : {"drained", "draining", "reboot", "allocated", "mixed"})
    EXPECT_FALSE(has_failed(state)) << state;
}

TEST(Allocation, LongWordsOfSrunAreCut) {
  const auto failures =
      failures_in("srun: error: node3: task 2: " + std::string(500000, 'x') + "\n");
  ASSERT_EQ(failures.size(), 1U);
  EXPECT_EQ(failures[0].node, "node3");
}

TEST(Allocation, SrunsWordsNameTheNodes) {
  const auto failures = failures_in(
      "step 12 loss 3\n"
      "srun: error: node3: task 2: Killed\n"
      "srun: error: node[1-2]: tasks 0-1: Exited with exit code 75\n"
      "srun: error: Task launch for StepId=2.0 failed on node node4: Communication connection "
      "failure\n"
      "srun: error: Node failure on node5\n"
      "srun: error: Application launch failed: Communication connection failure\n");
  ASSERT_EQ(failures.size(), 4U);
  EXPECT_EQ(failures[0].node, "node3");
  EXPECT_EQ(failures[0].what, "Killed");
  EXPECT_FALSE(failures[0].of_node);
  EXPECT_EQ(failures[1].node, "node[1-2]");
  EXPECT_EQ(failures[2].node, "node4");
  EXPECT_TRUE(failures[2].of_node);
  EXPECT_EQ(failures[3].node, "node5");
  EXPECT_TRUE(failures[3].of_node);
}

TEST_F(AllocationQueries, ANodeThatIsAccusedTwiceInARowIsAvoided) {
  tool("squeue", "echo 'n[1-2]'");
  Allocation allocation(folder_.path(), {1, 1, 1}, patience_);
  const auto nodes = [&] { return allocation.next([] { return false; }).nodes; };
  constexpr int environment = static_cast<int>(ExitCode::environment);
  allocation.ended(environment, "n1");
  allocation.ended(environment, "n2");
  allocation.ended(environment, "n1");
  allocation.ended(0, "");
  allocation.ended(environment, "n1");
  EXPECT_EQ(nodes().size(), 2U);
  allocation.ended(environment, "n1");
  EXPECT_EQ(nodes(), std::vector<std::string>{"n2"});
}

TEST(BadNodes, HaveAnotherChanceWhenTheirLineIsGone) {
  const test::TemporaryFolder folder;
  for (const char* node : {"n1", "n2", "n3"}) add_bad_node(folder.path(), node, "a\ttab");
  forget_bad_nodes(folder.path(), {"n1", "n3"});
  EXPECT_EQ(read_bad_nodes(folder.path()), std::vector<std::string>{"n2"});
  forget_bad_nodes(folder.path(), {});
  EXPECT_EQ(read_file(folder.path() / "bad-nodes").substr(0, 3), "n2\t");
}

TEST(Partition, NodesThatWorkAreCountedInThoseAskedFor) {
  const std::string lines =
      "cpu* n1 idle\ncpu* n2 down*\ngpu n3 mixed\ngpu n4 allocated\nbig n4 allocated\n";
  EXPECT_EQ(working_nodes(lines, ""), std::set<std::string>{"n1"});
  EXPECT_EQ(working_nodes(lines, "gpu"), (std::set<std::string>{"n3", "n4"}));
  EXPECT_EQ(working_nodes(lines, "cpu,big"), (std::set<std::string>{"n1", "n4"}));
}

TEST(Partition, TheOldestBadNodesHaveAnotherChanceWhereTooFewAreLeft) {
  using Names = std::vector<std::string>;
  const std::set<std::string> working{"n1", "n2", "n3", "n4"};
  const Names bad{"gone", "n3", "n1"};
  EXPECT_EQ(affordable(bad, working, 2), bad);
  EXPECT_EQ(affordable(bad, working, 3), (Names{"gone", "n1"}));
  EXPECT_EQ(affordable(bad, working, 4), Names{"gone"});
  EXPECT_EQ(affordable(bad, working, 9), Names{"gone"});
}

TEST(Allocation, BadNodesAreRememberedOnce) {
  const test::TemporaryFolder folder;
  EXPECT_TRUE(read_bad_nodes(folder.path()).empty());
  for (int i = 0; i < 2; ++i) add_bad_node(folder.path(), "n3", "Node failure");
  add_bad_node(folder.path(), "n1", "no answer");
  EXPECT_EQ(read_bad_nodes(folder.path()), (std::vector<std::string>{"n3", "n1"}));
  const std::string text = read_file(folder.path() / "bad-nodes");
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2);
}

TEST(Allocation, AfterHalfALineABadNodeBeginsANewOne) {
  const test::TemporaryFolder folder;
  atomic_write(folder.path() / "bad-nodes", "n1\t17000");  // as a full disk leaves it
  add_bad_node(folder.path(), "n2", "no answer");
  EXPECT_EQ(read_bad_nodes(folder.path()), (std::vector<std::string>{"n1", "n2"}));
}

TEST(Queue, AfterHalfALineAJobBeginsANewOne) {
  const test::TemporaryFolder folder;
  append_job(folder.path(), {"12", "", 1e9, "abc", "", "2", ""});
  const std::string whole = read_file(folder.path() / "jobs.tsv");
  atomic_write(folder.path() / "jobs.tsv", whole + "13\t\t100");
  append_job(folder.path(), {"14", "", 1e9, "abc", "", "2", ""});
  const auto jobs = read_jobs(folder.path());
  ASSERT_EQ(jobs.size(), 2U);
  EXPECT_EQ(jobs[1].id, "14");
}

TEST(Queue, RowsAreRead) {
  const auto rows =
      parse_queue("12|PENDING|BeginTime|1||2026-11-23T23:09:24|demist:0123456789ab|\nnoise\n");
  ASSERT_EQ(rows.size(), 1U);
  EXPECT_EQ(rows[0].restarts, 1);
  EXPECT_TRUE(rows[0].is_live());
  QueueAnswer answer{true, "", rows, {}, {}};
  Job job{"12", "", 0, "0123456789abcdef", "", "4", ""};
  EXPECT_NE(answer.find(job), nullptr);
  job.recipe_hash = "another";  // the id was used again
  EXPECT_EQ(answer.find(job), nullptr);
  job.recipe_hash = "0123456789abcdef";
  job.mark = "here";
  EXPECT_NE(answer.find(job), nullptr) << "a job of before folders had marks";
  answer.rows[0].comment += ":here";
  EXPECT_NE(answer.find(job), nullptr);
  answer.rows[0].comment += "after";  // its folder was copied
  EXPECT_EQ(answer.find(job), nullptr);
  EXPECT_FALSE((QueueRow{"1", "COMPLETED", "", "", "", 0, ""}).is_live());
  const auto accounts = parse_accounting("12|CANCELLED by 0|0:15|00:01:00|n[1-4]\n");
  ASSERT_EQ(accounts.size(), 1U);
  EXPECT_EQ(accounts[0].state, "CANCELLED");
  EXPECT_FALSE(accounts[0].is_live());
  for (const char* state :
       {"PENDING", "RUNNING", "REQUEUED", "SUSPENDED", "CONFIGURING", "COMPLETING", "RESIZING"})
    EXPECT_TRUE(parse_accounting("12|" + std::string(state) + "|0:0|00:00|n1|\n").at(0).is_live());
  const auto shown = parse_shown_job(
      "JobId=12 JobName=a b Dependency=(null) JobState=RUNNING Reason=None Restarts=2 "
      "NodeList=n[1-2] AdminComment=x Comment=demist:0123456789ab \n");
  ASSERT_TRUE(shown);
  EXPECT_EQ(shown->state, "RUNNING");
  EXPECT_EQ(shown->restarts, 2);
  EXPECT_EQ(shown->nodes, "n[1-2]");
  EXPECT_EQ(shown->comment, "demist:0123456789ab");
  EXPECT_FALSE(parse_shown_job("slurm_load_jobs error\n"));
}

TEST(Queue, ACopyOfAFolderHasAnotherMark) {
  const test::TemporaryFolder folder;
  const fs::path run = folder.path() / "run", copy = folder.path() / "copy",
                 link = folder.path() / "link";
  const std::string mark = folder_mark(run);
  fs::create_directories(run);
  append_job(run, {"12", "", 1e9, "abc", "", "2", ""});
  fs::copy(run, copy);
  fs::create_directory_symlink(run, link);
  EXPECT_EQ(read_jobs(run).at(0).mark, mark);
  EXPECT_EQ(read_jobs(link).at(0).mark, mark);
  EXPECT_EQ(read_jobs(run / "../copy").at(0).mark, folder_mark(copy));
  EXPECT_NE(folder_mark(copy), mark);
}

TEST(Queue, JobsAreKeptInAFile) {
  const test::TemporaryFolder folder;
  EXPECT_TRUE(read_jobs(folder.path()).empty());
  append_job(folder.path(), {"12", "alps", 1e9, "abc", "", "2-4", ""});
  append_job(folder.path(), {"13", "", 1e9 + 1, "abc", "adapt", "2-4", ""});
  const auto jobs = read_jobs(folder.path());
  ASSERT_EQ(jobs.size(), 2U);
  EXPECT_EQ(jobs[0].cluster, "alps");
  EXPECT_EQ(jobs[0].stage, "");
  EXPECT_EQ(jobs[1].stage, "adapt");
  EXPECT_EQ(jobs[1].nodes, "2-4");
}

TEST(Launch, IsReadAsItWasWritten) {
  Launch launch{"/r.textproto", {"a=1"}, {}, "mpirun --hostfile hosts", "mlm"};
  EXPECT_FALSE(launch_from_json(to_json(launch)).submission);
  launch.submission = Submission{"2-4", 8, "1:00", "alps", true, 3, 1e9};
  const Launch read = launch_from_json(to_json(launch));
  EXPECT_EQ(read.overrides, launch.overrides);
  EXPECT_EQ(read.launcher, "mpirun --hostfile hosts");
  EXPECT_EQ(read.stage, "mlm");
  EXPECT_EQ(read.submission->nodes, "2-4");
  EXPECT_EQ(read.submission->chain, 3);
  EXPECT_TRUE(read.submission->stage_jobs);
  EXPECT_EQ(read.submission->since, 1e9);
  EXPECT_THROW(launch_from_json("{"), DataError);
}

TEST(Logs, LastLinesAndFirstErrors) {
  EXPECT_EQ(last_lines("a\nb\nc\n", 2), "b\nc\n");
  EXPECT_EQ(last_lines("a\nb\nc", 2), "b\nc");
  EXPECT_EQ(last_lines("a\n", 5), "a\n");
  EXPECT_EQ(last_lines("a\nb\n", 0), "a\nb\n");
  EXPECT_EQ(last_lines("", 3), "");
  const std::string log =
      "2026-01-01T00:00:01Z demist: old\n2026-01-01T00:00:05Z fine\n"
      "2026-01-01T00:00:06Z demist: new\n";
  EXPECT_EQ(first_error(log, "2026-01-01T00:00:02Z").time, "2026-01-01T00:00:06Z");
  EXPECT_EQ(first_error(log, "2026-01-01T00:00:02Z").words, "new");
  EXPECT_EQ(first_error(log, "2026-01-01T00:00:07Z").time, "");
}

}  // namespace
}  // namespace demist::slurm
