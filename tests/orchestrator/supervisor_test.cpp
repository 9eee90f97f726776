// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/supervisor.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>

#include "core/error.hpp"
#include "core/file.hpp"
#include "orchestrator/process.hpp"
#include "orchestrator/run_folder.hpp"
#include "orchestrator/stage_state.hpp"
#include "tests/support/temporary_folder.hpp"

namespace demist {
namespace {

SupervisorOptions options(int ranks) {
  SupervisorOptions o;
  o.run_dir = "runs/r";
  o.record = "abc";
  o.ranks = ranks;
  return o;
}

Crew crew(int ranks) {
  Crew c;
  c.ranks = ranks;
  return c;
}

TEST(Supervisor, OneRankNeedsNoMpirun) {
  const StageConfig stage{"mlm", TrainingStage{}, "runs/r/mlm", "", {}};
  const std::vector<std::string> expected{"/bin/demist", "train", "runs/r",     "--record", "abc",
                                          "--stage",     "mlm",   "--progress", "lines"};
  EXPECT_EQ(stage_command(options(1), "/bin/demist", stage, crew(1)), expected)
      << "the user may edit his recipe between two attempts";
}

TEST(Supervisor, SeveralRanksForStagesThatUseThem) {
  const StageConfig stage{"mlm", TrainingStage{}, "runs/r/mlm", "", {}};
  const auto command = stage_command(options(3), "/bin/demist", stage, crew(3));
  EXPECT_EQ(command.front(), "mpirun");
  EXPECT_NE(std::find(command.begin(), command.end(), "3"), command.end());
  const StageConfig tokenizer{"tok", TokenizerStage{}, "runs/r/tok", "", {}};
  EXPECT_EQ(stage_command(options(3), "/bin/demist", tokenizer, crew(3)).front(), "/bin/demist");
}

TEST(Supervisor, SrunTakesTheCrewsNodes) {
  const StageConfig stage{"mlm", TrainingStage{}, "runs/r/mlm", "", {}};
  SupervisorOptions o = options(1);
  o.launcher = Launcher("srun --mpi=pmix");
  const Crew two{8, 4, {"n1", "n3"}};
  const auto command = stage_command(o, "/bin/demist", stage, two);
  const auto at = [&](const char* word) {
    return std::find(command.begin(), command.end(), word) - command.begin();
  };
  EXPECT_EQ(command.front(), "srun");
  for (const char* word : {"--nodes=2", "--ntasks=8", "--ntasks-per-node=4", "--nodelist=n1,n3",
                           "--kill-on-bad-exit=1", "--overlap", "--mpi=pmix"})
    EXPECT_LT(at(word), at("/bin/demist")) << word;
  EXPECT_EQ(at("--no-kill"), static_cast<std::ptrdiff_t>(command.size()));
  EXPECT_THROW(Launcher("ssh n1"), ConfigError);
  EXPECT_THROW(Launcher(""), ConfigError);
}

TEST(Supervisor, LaunchersAreKnownByAnyOfTheirNames) {
  for (const char* command : {"mpirun", "mpiexec", "/usr/bin/mpirun -x A", "orterun",
                              "/opt/openmpi/bin/mpiexec", "mpirun.openmpi"}) {
    const Launcher launcher(command);
    EXPECT_FALSE(launcher.is_srun()) << command;
    const std::string text = command;
    EXPECT_EQ(launcher.words(crew(2)).front(), text.substr(0, text.find(' ')));
  }
  EXPECT_TRUE(Launcher("/usr/bin/srun --mpi=pmix").is_srun());
  for (const char* command : {"", "ssh n1", "/usr/bin/", "/mpirun/ssh", "srunner"})
    EXPECT_THROW(Launcher{command}, ConfigError) << command;
}

TEST(Supervisor, OneRankOnTheHostsThatAreLeftNeedsMpirun) {
  const StageConfig stage{"mlm", TrainingStage{}, "runs/r/mlm", "", {}};
  SupervisorOptions o = options(1);
  o.launcher = Launcher("mpirun --host a:1,b:1 -x A");
  Crew left = crew(1);
  left.hosts = "b:1";
  const auto command = stage_command(o, "/bin/demist", stage, left);
  EXPECT_EQ(command.front(), "mpirun");
  const auto host = std::find(command.begin(), command.end(), "--host");
  ASSERT_NE(host, command.end());
  EXPECT_EQ(*(host + 1), "b:1");
  EXPECT_EQ(std::find(host + 1, command.end(), "--host"), command.end());
}

TEST(Supervisor, EnvironmentAllowsRootOnlyForRoot) {
  EXPECT_TRUE(stage_environment(1, 3, true).contains("OMPI_ALLOW_RUN_AS_ROOT"));
  const auto user = stage_environment(1, 3, false);
  EXPECT_FALSE(user.contains("OMPI_ALLOW_RUN_AS_ROOT"));
  EXPECT_EQ(user.at("OMP_NUM_THREADS"), "3");
}

TEST(Supervisor, AdviceFitsTheCode) {
  const auto advises = [](int code, const char* words) {
    return advice(code, "runs/r/logs").find(words) != std::string::npos;
  };
  for (const int code : {3, 4, 5, 75, 130, 137}) EXPECT_TRUE(advises(code, "same command")) << code;
  for (const int code : {1, 6}) EXPECT_FALSE(advises(code, "same command")) << code;
  EXPECT_TRUE(advises(1, "runs/r/logs"));
  EXPECT_TRUE(advises(kDaemonLost, "the hosts"));
}

// How a recipe is refused that stands where its run's record goes; "": it is not.
std::string refusal(const fs::path& folder) {
  const fs::path recipe = folder / "recipe.textproto";
  try {
    refuse_record(load_recipe(recipe, {"run_dir=" + folder.string()}), recipe);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(Supervisor, ARecordIsRunWhereItIsNoOtherRunsRecord) {
  const test::TemporaryFolder root;
  const fs::path recipe = root.path() / "r.textproto", made = root.path() / "made";
  const auto finish = [](const RunConfig& run) {
    fs::create_directories(run.run_dir);
    write_record(run);
    StageState state;
    state.key = state.output = stage_key(run, run.stages[0]);
    write_done(run.stages[0], state);
    atomic_write(std::get<PrepareStage>(run.stages[0].work).product, "text");
  };
  atomic_write(recipe,
               R"(name: "r" stages { name: "a" kind: PREPARE command: "true" product: "b" })");
  finish(load_recipe(recipe, {"run_dir=" + made.string()}));
  EXPECT_NE(refusal(made).find("made from another file"), std::string::npos);

  const fs::path copy = root.path() / "copy", written = root.path() / "written";
  fs::create_directories(copy);
  fs::copy(made / "recipe.textproto", copy / "recipe.textproto");
  EXPECT_EQ(refusal(copy), "");
  finish(load_recipe(copy / "recipe.textproto", {"run_dir=" + copy.string()}));
  EXPECT_EQ(refusal(copy), "") << "the same command does not go on";

  fs::create_directories(written);
  fs::copy(recipe, written / "recipe.textproto");
  EXPECT_NE(refusal(written).find("move it"), std::string::npos) << "it would be overwritten";
}

TEST(Process, ReturnsCodesAndSignals) {
  EXPECT_EQ(run_process({{"true"}, {}}), 0);
  EXPECT_EQ(run_process({{"sh", "-c", "exit 75"}, {}}), 75);
  EXPECT_EQ(run_process({{"sh", "-c", "kill -9 $$"}, {}}), 128 + 9);
  EXPECT_EQ(run_process({{"sh", "-c", "test \"$GREETING\" = 'a b'"}, {{"GREETING", "a b"}}}), 0);
  try {
    run_process({{"no-such-program-anywhere"}, {}});
    FAIL();
  } catch (const EnvironmentError& error) {
    EXPECT_NE(std::string(error.what()).find("; install it"), std::string::npos) << error.what();
  }
}

TEST(Process, CapturesWhatAChildSays) {
  const Captured said =
      capture_process({{"sh", "-c", "cat; echo out; echo err >&2; exit 3"}, {}}, 10);
  EXPECT_EQ(said.code, 3);
  EXPECT_EQ(said.output, "out\n");
  EXPECT_EQ(said.error, "err\n");
  EXPECT_EQ(capture_process({{"seq", "100000"}, {}}, 30).output.size(), 588895);
  EXPECT_EQ(capture_process({{"no-such-program-anywhere"}, {}}, 1).code, 127);
  const Captured late = capture_process({{"sleep", "100"}, {}}, 0.05);
  EXPECT_EQ(late.code, 128 + SIGKILL);
  EXPECT_NE(late.error.find("did not answer"), std::string::npos) << late.error;
}

TEST(Process, WatcherCanReachTheGroup) {
  bool told = false;
  const int code =
      run_process({{"sh", "-c", "trap 'exit 75' USR1; while :; do sleep 0.05; done"}, {}},
                  [&, calls = 0](int pid) mutable {
                    if (++calls < 5 || told) return;
                    told = true;
                    ::kill(-pid, SIGUSR1);
                  });
  EXPECT_EQ(code, 75);
}

}  // namespace
}  // namespace demist
