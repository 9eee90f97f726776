// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/config.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/error.hpp"
#include "core/file.hpp"

namespace demist {
namespace {

const std::string kRecipe = R"(name: "r"
tokenizer { inputs: "a.txt" }
corpora { name: "train" inputs { path: "a.txt" } }
tasks { name: "t" file: "p.tsv" max_length: 64 }
model { layers: 2 hidden: 64 heads: 4 positions: 130 }
stages { name: "tok" kind: TOKENIZER }
stages { name: "corpus" kind: CORPUS }
stages {
  name: "mlm"
  kind: PRETRAIN
  start_from: "scratch"
  corpus: "train"
  steps: 100
  batch { sequence_length: 128 }
  optimizer { lr: 1e-3 }
}
stages {
  name: "rdm"
  kind: ADAPT
  start_from: "mlm"
  tasks: "t"
  steps: 10
  optimizer { lr: 5e-4 schedule: CONSTANT }
}
stages { name: "score" kind: SCORE start_from: "rdm" tasks: "t" }
)";

RunConfig parse(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return parse_recipe(text, "dir/r.textproto", overrides);
}

std::string with(const std::string& from, const std::string& to) {
  std::string text = kRecipe;
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

// The message of the ConfigError that parsing raises.
std::string error_of(const std::string& text, const std::vector<std::string>& overrides = {}) {
  try {
    parse(text, overrides);
  } catch (const ConfigError& error) {
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    return error.what();
  }
  return "no error";
}

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST(Config, ConvertsEveryPart) {
  const RunConfig run = parse(kRecipe);
  EXPECT_EQ(run.run_dir, "runs/r");
  EXPECT_EQ(run.tokenizer.training.inputs.at(0), "dir/a.txt");
  EXPECT_EQ(run.tokenizer.model, "runs/r/tokenizer.model");
  EXPECT_EQ(run.tokenizer.training.pieces, 8000);
  EXPECT_EQ(run.corpus("train").build.output, "runs/r/corpora/train");
  EXPECT_EQ(run.model.ffn, 256);
  EXPECT_EQ(run.compute, DType::bf16);
  EXPECT_EQ(run.reduction, Reduction::exact);
  const auto& mlm = std::get<TrainingStage>(run.stage("mlm").work);
  EXPECT_EQ(mlm.start_from, "");
  EXPECT_EQ(mlm.optimizer.schedule.total_steps, 100);
  EXPECT_EQ(std::get<data::MlmNoise>(mlm.noise).mask_fraction, 0.15);
  EXPECT_FLOAT_EQ(mlm.hidden_dropout, 0.1f);
  const auto& rdm = std::get<TrainingStage>(run.stage("rdm").work);
  EXPECT_EQ(rdm.start_from, "mlm");
  EXPECT_EQ(rdm.optimizer.schedule.kind, ScheduleKind::constant);
  EXPECT_EQ(std::get<data::RdmNoise>(rdm.noise).steps, 50);
  EXPECT_TRUE(std::get<data::RdmNoise>(rdm.noise).coupled);
  EXPECT_EQ(rdm.batch.sequence_length, 64);
  EXPECT_EQ(std::get<ScoreStage>(run.stage("score").work).sampler.steps, 10);
}

TEST(Config, DecodingReachesTheSampler) {
  const RunConfig run = parse(with("tasks: \"t\" }", R"(tasks: "t" decoding {
    steps: 7 schedule: LINEAR routing: COND temperature: 0.5 stochastic: 1.5 } })"));
  const generate::SamplerOptions& sampler = std::get<ScoreStage>(run.stage("score").work).sampler;
  EXPECT_EQ(sampler.steps, 7);
  EXPECT_EQ(sampler.schedule, generate::RateSchedule::linear);
  EXPECT_EQ(sampler.routing, generate::Routing::cond);
  EXPECT_EQ(sampler.temperature, 0.5);
  EXPECT_EQ(sampler.stochastic, 1.5);
  EXPECT_HAS(error_of(kRecipe, {"stages.score.decoding.stochastic=-1"}), "stochastic: is -1");
}

TEST(Config, MistypedNamesAreGuessed) {
  EXPECT_HAS(error_of(kRecipe, {"stages.socre.limit=3"}), "did you mean 'score'?");
  EXPECT_HAS(error_of(with("corpus: \"train\"", "corpus: \"tarin\"")), "did you mean 'train'?");
  try {
    find_recipe("no such recipe anywhere");
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_EQ(std::string(error.what()).find("did you mean"), std::string::npos) << error.what();
  }
}

TEST(Config, RunFolderStandsInPaths) {
  const RunConfig run = parse(with("\"p.tsv\"", "\"{run}/raw/p.tsv\""), {"run_dir=/tmp/x"});
  EXPECT_EQ(run.task("t").file.path, "/tmp/x/raw/p.tsv");
}

TEST(Config, UnknownFieldNamesPlaceAndNearest) {
  const std::string error = error_of(with("  steps: 100", "  stpes: 100"));
  EXPECT_HAS(error, "dir/r.textproto:13:3: stpes: unknown field of Stage; did you mean 'steps'?");
  EXPECT_HAS(error_of(with("  steps: 100", "  # stpes\n\tstpes\n: 100")),
             "dir/r.textproto:14:9: stpes");
  EXPECT_HAS(error_of(with("heads: 4", "heads: 4 haeds : 4")), "dir/r.textproto:5:39: haeds");
}

TEST(Config, UnknownValueListsChoices) {
  const std::string error = error_of(with("CONSTANT", "FLAT"));
  EXPECT_HAS(error, "dir/r.textproto:23:34: schedule: ");
  EXPECT_HAS(error, "unknown value \"FLAT\"; use one of LINEAR, COSINE, CONSTANT, INVERSE_SQRT");
}

// As long as a file may be: nothing recurses once a character.
TEST(Config, LongWordsAreRefusedAsShortOnesAre) {
  const std::string word(500000, 'a');
  EXPECT_HAS(error_of(with("name: \"r\"", "name: \"" + word + " b\"")), "cannot name a folder");
  EXPECT_HAS(error_of(with("  steps: 100", word + ": 100")), word + ": unknown field of Stage");
  EXPECT_HAS(error_of(with("CONSTANT", word)), "unknown value \"" + word + "\"; use one of LINEAR");
  EXPECT_EQ(parse(with("name: \"r\"", "name: \"" + word + "\"")).name, word);
}

TEST(Config, SyntaxErrorHasALine) {
  EXPECT_HAS(error_of(with("layers: 2", "layers: two")), "dir/r.textproto:5:");
}

TEST(Config, ImpossibleValuesNamePlaceFieldAndRemedy) {
  struct Case {
    std::string from, to, line, part;
  };
  const std::vector<Case> cases = {
      {"heads: 4", "heads: 5", ":5:", "model.heads: 5 heads do not divide hidden = 64"},
      {"steps: 100", "steps: 0", ":13:", "stages.mlm.steps: is 0"},
      {"  steps: 100\n", "", ":8:", "stages.mlm.steps: is missing"},
      {"sequence_length: 128", "sequence_length: 129",
       ":14:", "129 tokens need model.positions >= 131"},
      {"max_length: 64", "max_length: 400", ":4:", "tasks.t.max_length: 400 tokens need"},
      {"lr: 1e-3", "lr: -1", ":15:", "stages.mlm.optimizer.lr: is -1"},
      {"lr: 1e-3", "lr: 1e-3 warmup_steps: 101", ":15:", "101 of 100 steps"},
      {"start_from: \"mlm\"", "start_from: \"mml\"", ":20:", "earlier training stages are: mlm"},
      {"start_from: \"scratch\"", "start_from: \"rdm\"", ":11:", "not an earlier training stage"},
      {"name: \"rdm\"", "name: \"mlm\"", ":18:", "\"mlm\" is used twice"},
      {"corpus: \"train\"", "corpus: \"tarin\"", ":12:", "known are: train"},
      {"tasks: \"t\"\n  steps", "tasks: \"u\"\n  steps", ":21:", "\"u\" is not among the tasks"},
      {"steps: 10\n", "steps: 10 mlm {}\n", ":22:", "stages.rdm.mlm: has no meaning"},
      {"kind: TOKENIZER", "kind: TOKENIZER steps: 3", ":6:", "stages.tok.steps: has no meaning"},
      {"kind: CORPUS", "", ":7:", "stages.corpus.kind: is missing"},
      {"name: \"r\"", "name: \"a b\"", ":1:", "cannot name a folder"},
      {"steps: 10\n", "steps: 10 batch { max_tokens: 127 }\n", ":22:", "in two coupled copies"},
      {"layers: 2", "layers: 2000000000", ":5:", "model.layers: is 2000000000"},
      {"hidden: 64", "hidden: 2000000000", ":5:", "model.hidden: is 2000000000"},
      {"steps: 100", "steps: 100 language_alpha: 1.5", ":13:", "language_alpha: is 1.5"},
      {"lr: 1e-3", "lr: 1e-3 schedule: CONSTANT final_fraction: 0.1",
       ":15:", "final_fraction: has no meaning with schedule CONSTANT"},
      {"name: \"rdm\"", "name: \"lock\"", ":18:", "\"lock\" is a name that every run folder uses"},
  };
  for (const Case& c : cases) {
    const std::string error = error_of(with(c.from, c.to));
    EXPECT_HAS(error, "dir/r.textproto" + c.line);
    EXPECT_HAS(error, c.part);
    EXPECT_HAS(error, "; ");
  }
}

TEST(Config, NumbersBelowZeroAreRefused) {
  EXPECT_HAS(error_of(kRecipe, {"tokenizer.max_bytes=-5"}), "tokenizer.max_bytes: is -5");
  EXPECT_HAS(error_of(kRecipe, {"stages.score.decoding.length_tokens=-3"}), "length_tokens: is -3");
  EXPECT_HAS(error_of(kRecipe, {"model.positions=-1"}), "model.positions: is -1");
}

TEST(Config, NoStageTakesTheNameOfAFileOfTheRun) {
  for (const char* name : {"lock", "recipe.textproto", "tokenizer.model", "metrics.jsonl",
                           "events.jsonl", "summary.json", "jobs.tsv", "logs", "ranks", "corpora",
                           "STOP", "bad-nodes", "launch.json", "submit.lock", "submit.sh"})
    EXPECT_HAS(error_of(kRecipe, {std::string("stages.score.name=") + name}),
               "is a name that every run folder uses");
}

TEST(Config, ScoredPairsMustFitTheModel) {
  EXPECT_HAS(error_of(with("tasks: \"t\"\n  steps", "tasks: \"short\"\n  steps") +
                          "tasks { name: \"short\" file: \"t.tsv\" max_length: 8 }\n",
                      {"tasks.t.max_length=300"}),
             "tasks.t.max_length: 300 tokens need model.positions >= 302");
}

TEST(Config, FixedAnswersMustFitTheModel) {
  const std::string fixed = "stages.score.decoding.length=FIXED";
  EXPECT_HAS(error_of(kRecipe, {fixed, "stages.score.decoding.length_tokens=127"}),
             "length_tokens: 129 tokens need model.positions >= 131");
  EXPECT_EQ(error_of(kRecipe, {fixed, "stages.score.decoding.length_tokens=126"}), "no error");
}

TEST(Config, RanksThatALauncherStartedAreNotTheRecipes) {
  EXPECT_HAS(error_of(kRecipe, {"parallel.tensor=2"}), "1 ranks are not a multiple of tensor = 2");
  EXPECT_EQ(parse_recipe(kRecipe, "dir/r.textproto", {"parallel.tensor=2"}, RanksOf::launcher)
                .tensor_parallel,
            2);
}

TEST(Config, TensorParallelMustDivide) {
  EXPECT_HAS(error_of(kRecipe, {"parallel.tensor=8", "parallel.ranks=8"}),
             "parallel.tensor: 8 does not divide heads = 4");
  EXPECT_HAS(error_of(kRecipe, {"parallel.tensor=2", "parallel.ranks=3"}), "not a multiple");
  EXPECT_HAS(error_of(kRecipe, {"parallel.tensor=3"}), "must be 1, 2, 4 or 8");
}

TEST(Config, CountsThatNoMachineHoldsAreRefused) {
  for (const char* field :
       {"stages.mlm.batch.micro_batches", "stages.rdm.evaluate.micro_batches"}) {
    EXPECT_HAS(error_of(kRecipe, {std::string(field) + "=2000000000"}),
               std::string(field) + ": is 2000000000; must be between 1 and 1000000");
    EXPECT_EQ(error_of(kRecipe, {std::string(field) + "=1000000"}), "no error");
  }
  EXPECT_HAS(error_of(kRecipe, {"parallel.threads=100000"}),
             "parallel.threads: is 100000; must be between 1 and 1024, or 0");
  EXPECT_EQ(error_of(kRecipe, {"parallel.threads=1024"}), "no error");
}

TEST(Config, ALanguageHasTheFormOfATag) {
  const std::string message = error_of(
      with("inputs { path: \"a.txt\" }", "inputs { path: \"a.txt\" language: \"en de\" }"));
  EXPECT_HAS(message, "r.textproto:3:");
  EXPECT_HAS(message, "language: \"en de\" is not a language tag; use letters");
  EXPECT_EQ(error_of(kRecipe, {"corpora.train.inputs.0.language=zh-Hant-TW"}), "no error");
}

TEST(Config, ErrorsOfOverridesNameTheOverride) {
  EXPECT_HAS(error_of(kRecipe, {"model.heads=3"}), "(--set model.heads): model.heads: 3 heads");
}

TEST(Config, SetReachesEveryKindOfField) {
  const RunConfig run = parse(
      kRecipe, {"stages.mlm.steps=7", "model.hidden=128", "stages.mlm.optimizer.lr=2e-4",
                "stages.rdm.optimizer.schedule=COSINE", "precision=FP32", "stages.2.corpus=train",
                "tokenizer.inputs=x.txt,y.txt", "stages.rdm.rdm.coupled=false", "run_dir=\"q q\""});
  const auto& mlm = std::get<TrainingStage>(run.stage("mlm").work);
  EXPECT_EQ(mlm.steps, 7);
  EXPECT_EQ(mlm.optimizer.schedule.peak, 2e-4);
  EXPECT_EQ(run.model.hidden, 128);
  EXPECT_EQ(run.model.ffn, 512);  // the default follows
  EXPECT_EQ(run.compute, DType::f32);
  EXPECT_EQ(run.tokenizer.training.inputs.size(), 2u);
  EXPECT_EQ(run.run_dir, "q q");
  const auto& rdm = std::get<TrainingStage>(run.stage("rdm").work);
  EXPECT_EQ(rdm.optimizer.schedule.kind, ScheduleKind::cosine);
  EXPECT_FALSE(std::get<data::RdmNoise>(rdm.noise).coupled);
}

TEST(Config, SetRefusesWhatItDoesNotKnow) {
  EXPECT_HAS(error_of(kRecipe, {"model.hiden=1"}), "--set model.hiden=1: Model has no field");
  EXPECT_HAS(error_of(kRecipe, {"model.hiden=1"}), "did you mean 'hidden'?");
  EXPECT_HAS(error_of(kRecipe, {"stages.pre.steps=1"}), "stages has no element 'pre'; it has: tok");
  EXPECT_HAS(error_of(kRecipe, {"model.hidden"}), "expected path=value");
  EXPECT_HAS(error_of(kRecipe, {"model=1"}), "is a group of fields");
  EXPECT_HAS(error_of(kRecipe, {"stages.mlm=1"}), "is a group of fields");
  EXPECT_HAS(error_of(kRecipe, {"model.hidden.x=1"}), "is a value");
  EXPECT_HAS(error_of(kRecipe, {"model.hidden=wide"}), "--set model.hidden=wide");
  EXPECT_HAS(error_of(kRecipe, {"precision=FP8"}), "use one of BF16, FP32");
  EXPECT_HAS(error_of(kRecipe, {"model.hidden=64 heads: 2"}), "sets heads too");
  EXPECT_HAS(error_of(kRecipe, {"name=\"a\" run_dir: \"b\""}), "sets run_dir too");
}

TEST(Config, HashIgnoresWhatChangesNoResult) {
  const RunConfig run = parse(kRecipe);
  const RunConfig moved = parse(
      kRecipe, {"parallel.ranks=4", "parallel.threads=2", "parallel.tensor=2", "run_dir=/tmp/other",
                "parallel.recompute=LAYER", "parallel.tune_products=true",
                "parallel.attention=UNFUSED", "checkpoint.every_steps=3", "checkpoint.keep_last=4",
                "checkpoint.keep_every_steps=6", "recovery.attempts=9",
                "recovery.self_check_every_steps=7", "stages.score.decoding.max_tokens=99",
                "stages.score.samples=1", "stages.rdm.evaluate.every_steps=5"});
  EXPECT_TRUE(moved.tune_products);
  EXPECT_FALSE(run.tune_products);
  EXPECT_EQ(run.hash, moved.hash);
  for (const StageConfig& stage : run.stages)
    EXPECT_EQ(stage.hash, moved.stage(stage.name).hash) << stage.name;
  EXPECT_EQ(run.hash, parse_recipe(kRecipe, "/elsewhere/r.textproto").hash);
  EXPECT_EQ(run.hash, parse("# comment\n" + kRecipe, {"seed=1"}).hash);  // a default, spelled out
  EXPECT_NE(run.hash, parse(kRecipe, {"seed=2"}).hash);
}

TEST(Config, AttentionIsWishedForOrRefused) {
  EXPECT_EQ(parse(kRecipe).attention, AttentionWish::automatic);
  EXPECT_EQ(parse(kRecipe, {"parallel.attention=OWN"}).attention, AttentionWish::own);
  EXPECT_EQ(parse(kRecipe, {"parallel.attention=UNFUSED"}).attention, AttentionWish::unfused);
  EXPECT_HAS(error_of(kRecipe, {"parallel.attention=FAST"}),
             "use one of AUTO, OWN, UNFUSED, CUDNN");
  for (const char* path : {"UNFUSED", "CUDNN"})
    EXPECT_HAS(
        error_of(kRecipe, {std::string("parallel.attention=") + path, "parallel.device=CPU"}),
        std::string("parallel.attention: is ") + path + ", and device is CPU");
  EXPECT_EQ(parse(kRecipe, {"parallel.attention=OWN", "parallel.device=CPU"}).device,
            DeviceKind::cpu);
}

// Pretraining alone, as cuDNN can have it; each change in turn is one that it cannot.
TEST(Config, CudnnIsRefusedWithItsReason) {
  const std::string text = kRecipe.substr(0, kRecipe.find("stages {\n  name: \"rdm\""));
  const auto with_cudnn = [](std::vector<std::string> changes) {
    changes.insert(changes.begin(), {"parallel.attention=CUDNN", "stages.mlm.attention_dropout=0"});
    return changes;
  };
  EXPECT_EQ(parse(text, with_cudnn({})).attention, AttentionWish::cudnn);
  const auto refused = [&](const std::string& change) {
    const std::string error = error_of(text, with_cudnn({change}));
    EXPECT_HAS(error, "parallel.attention: CUDNN cannot compute stage mlm: ");
    EXPECT_HAS(error, "AUTO takes cuDNN for the stages that it can compute");
    return error;
  };
  EXPECT_HAS(refused("stages.mlm.attention_dropout=0.2"), "attention_dropout is 0.2");
  EXPECT_HAS(refused("stages.mlm.document_mask=true"), "rows have padding");
  EXPECT_HAS(refused("stages.mlm.batch.sequence_length=100"), "rows of 100 tokens");
  EXPECT_HAS(refused("precision=FP32"), "no fp32 attention");
  EXPECT_HAS(refused("model.heads=16"), "heads of 4");
  EXPECT_HAS(error_of(kRecipe, with_cudnn({"stages.rdm.attention_dropout=0"})),
             "CUDNN cannot compute stage rdm: rows have padding");
}

TEST(Config, SelfChecksNeedExactSums) {
  EXPECT_EQ(parse(kRecipe).recovery.self_check_every, 0);
  EXPECT_EQ(parse(kRecipe, {"recovery.self_check_every_steps=7"}).recovery.self_check_every, 7);
  EXPECT_HAS(error_of(kRecipe, {"recovery.self_check_every_steps=-1"}), "must be 0 or greater");
  EXPECT_HAS(error_of(kRecipe, {"recovery.self_check_every_steps=7", "reduction=FAST"}),
             "recovery.self_check_every_steps: needs reduction: EXACT");
}

TEST(Config, RulesOfWhatIsKept) {
  const checkpoint::Retention usual = parse(kRecipe).keep;
  EXPECT_EQ(std::tuple(usual.last, usual.every, usual.best), std::tuple(2, 0, 0));
  const std::vector<std::string> best{"checkpoint.every_steps=20", "checkpoint.keep_best=3",
                                      "stages.mlm.evaluate.every_steps=30",
                                      "stages.mlm.held_out=train"};
  const auto also = [&](const std::string& assignment) {
    std::vector<std::string> all = best;
    all.push_back(assignment);
    return all;
  };
  const checkpoint::Retention rule = parse(kRecipe, also("checkpoint.keep_every_steps=40")).keep;
  EXPECT_EQ(std::tuple(rule.last, rule.every, rule.best), std::tuple(2, 40, 3));
  EXPECT_HAS(error_of(kRecipe, {"checkpoint.keep_last=-1"}), "keep_last: is -1");
  EXPECT_HAS(error_of(kRecipe, {"checkpoint.keep_best=-1"}), "keep_best: is -1");
  EXPECT_HAS(error_of(kRecipe, {"checkpoint.keep_every_steps=40"}), "no multiple of every_steps");
  EXPECT_HAS(error_of(kRecipe, also("checkpoint.keep_every_steps=30")),
             "30 is no multiple of every_steps = 20");
  EXPECT_HAS(error_of(kRecipe, also("checkpoint.keep_last=0")), "0 keeps all");
  const char* incomparable = "keep_best: has nothing to compare";
  EXPECT_HAS(error_of(kRecipe, {"checkpoint.keep_best=1"}), incomparable);
  EXPECT_HAS(error_of(kRecipe, also("stages.mlm.evaluate.every_steps=0")), incomparable);
  EXPECT_HAS(error_of(kRecipe, also("checkpoint.every_steps=0")), incomparable);
  EXPECT_HAS(error_of(kRecipe, also("stages.mlm.steps=60")), incomparable);  // they meet at 60
  EXPECT_HAS(error_of(kRecipe, also("stages.mlm.held_out=\"\"")), "there is nothing to measure");
}

TEST(Config, StageHashFollowsOnlyWhatTheStageUses) {
  const RunConfig run = parse(kRecipe);
  const auto changed = [&](const std::string& assignment) {
    const RunConfig other = parse(kRecipe, {assignment});
    std::string names;
    for (const StageConfig& stage : run.stages)
      if (stage.hash != other.stage(stage.name).hash) names += stage.name + " ";
    return names;
  };
  EXPECT_EQ(changed("tokenizer.pieces=99"), "tok corpus mlm rdm score ");
  EXPECT_EQ(changed("corpora.train.range_bytes=9999"), "corpus mlm rdm score ");
  EXPECT_EQ(changed("stages.mlm.steps=99"), "mlm rdm score ");
  EXPECT_EQ(changed("stages.rdm.steps=99"), "rdm score ");
  EXPECT_EQ(changed("stages.score.decoding.steps=3"), "score ");
  EXPECT_EQ(changed("tasks.t.template=say {prompt}"), "rdm score ");
  EXPECT_EQ(changed("model.layers=3"), "mlm rdm score ");
  const std::vector<std::string> before_rdm{"tok", "corpus", "mlm"};
  EXPECT_EQ(run.stage("rdm").depends_on, before_rdm);
}

TEST(Config, ResolvedTextIsARecipeWithTheSameMeaning) {
  const RunConfig run = parse(kRecipe, {"stages.mlm.steps=33"});
  const RunConfig again = parse_recipe(run.resolved, "anywhere/x.textproto");
  EXPECT_EQ(std::get<TrainingStage>(again.stage("mlm").work).steps, 33);
  EXPECT_EQ(again.resolved, run.resolved);
}

TEST(Config, MissingStageIsNamed) {
  const RunConfig run = parse(kRecipe);
  EXPECT_THROW(run.stage("nope"), ConfigError);
  EXPECT_THROW(load_recipe("no/such/file.textproto"), ConfigError);
  EXPECT_THROW(load_recipe("/proc/self/mem"), UnreadError);  // EIO
  EXPECT_THROW(find_recipe("no_such_recipe"), ConfigError);
}

TEST(Config, WhatNothingWouldReadIsRefused) {
  const auto refused = [](const std::string& from, const std::string& to, const std::string& path) {
    EXPECT_HAS(error_of(with(from, to)), path);
  };
  refused("optimizer { lr: 1e-3 }", "optimizer { lr: 1e-3 } evaluate { every_steps: 10 }",
          "stages.mlm.evaluate: there is nothing to measure; name a corpus in held_out");
  refused("inputs { path: \"a.txt\" }", "folder: \"c\" range_bytes: 8192",
          "corpora.train.range_bytes: would not be read: folder names a finished corpus");
  refused("inputs { path: \"a.txt\" }", "inputs { path: \"a.txt\" json_field: \"body\" }",
          "corpora.train.inputs.0.json_field: would not be read: format is TEXT");
  refused("tokenizer {", "tokenizer { model: \"m\"", "tokenizer.inputs: would not be read");
  refused("tokenizer { inputs: \"a.txt\"", "tokenizer { model: \"m\" pieces: 500",
          "tokenizer.pieces: would not be read: tokenizer.model names a finished one");
  EXPECT_HAS(error_of(kRecipe, {"parallel.tune_products=true", "parallel.device=CPU"}),
             "parallel.tune_products: chooses among a GPU's products");
  EXPECT_HAS(error_of(kRecipe, {"recovery.min_ranks=5", "parallel.ranks=4"}),
             "recovery.min_ranks: 5 of 4 ranks");
  EXPECT_EQ(parse(kRecipe, {"stages.mlm.held_out=train", "stages.mlm.evaluate.every_steps=10"})
                .stages.size(),
            5u);
}

TEST(Config, ColumnsOfATaskAreOfOneKind) {
  EXPECT_HAS(error_of(kRecipe, {"tasks.t.prompt=source"}),
             "tasks.t.response: is \"1\", and prompt is \"source\"");
  EXPECT_HAS(error_of(kRecipe, {"tasks.t.split_field=split"}), "tasks.t.split_field: is \"split\"");
  EXPECT_EQ(parse(kRecipe, {"tasks.t.prompt=source", "tasks.t.response=target"}).tasks.size(), 1u);
}

class ShippedRecipe : public testing::TestWithParam<const char*> {};

TEST_P(ShippedRecipe, Loads) {
  const fs::path file = fs::path(DEMIST_SOURCE_DIR) / "configs" / GetParam();
  const RunConfig run = load_recipe(file);
  EXPECT_EQ(run.name + ".textproto", GetParam());
  EXPECT_FALSE(run.stages.empty());
  EXPECT_EQ(parse_recipe(run.resolved, file).resolved, run.resolved);  // as a run folder keeps it
}

INSTANTIATE_TEST_SUITE_P(Configs, ShippedRecipe,
                         testing::Values("tiny.textproto", "quickstart.textproto",
                                         "cpu_small.textproto", "xlmr_base.textproto",
                                         "xlmr_large.textproto", "xlmr_xl.textproto",
                                         "xlmr_xxl.textproto"),
                         [](const auto& recipe) {
                           const std::string name = recipe.param;
                           return name.substr(0, name.find('.'));
                         });

// Sizes of the method's table: layers, hidden, heads and the layers' parameters.
TEST(ShippedRecipes, XlmrSizes) {
  struct Size {
    const char* name;
    std::int64_t parameters;
    NormPlacement norm;
  };
  for (const Size& size :
       {Size{"base", 85054464, NormPlacement::post}, Size{"large", 302309376, NormPlacement::post},
        Size{"xl", 2832353280, NormPlacement::pre}, Size{"xxl", 9666232320, NormPlacement::pre}}) {
    const RunConfig run = load_recipe(fs::path(DEMIST_SOURCE_DIR) / "configs" /
                                      ("xlmr_" + std::string(size.name) + ".textproto"));
    const std::int64_t d = run.model.hidden, f = run.model.ffn;
    // Four projections, two of the FFN, their biases, and two LayerNorms a layer.
    const std::int64_t layer = 4 * d * d + 2 * d * f + 9 * d + f;
    EXPECT_EQ(run.model.layers * layer, size.parameters) << size.name;
    EXPECT_EQ(run.model.norm, size.norm);
    EXPECT_EQ(run.model.positions, 514);
  }
}

// A new recipe must be added to the list above.
TEST(ShippedRecipes, AllAreTested) {
  std::size_t found = 0;
  for (const auto& entry : fs::directory_iterator(fs::path(DEMIST_SOURCE_DIR) / "configs"))
    found += entry.path().extension() == ".textproto" ? 1 : 0;
  EXPECT_EQ(found, 7u);
}

}  // namespace
}  // namespace demist
