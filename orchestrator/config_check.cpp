// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>
#include <numeric>

#include "orchestrator/config_ranges.hpp"
#include "orchestrator/nearest.hpp"

namespace demist::config {
namespace {

using recipe::Recipe;
using recipe::Stage;

bool is_training(const Stage& stage) {
  return stage.kind() == Stage::PRETRAIN || stage.kind() == Stage::ADAPT;
}

template <class List>
std::vector<std::string> names_of(const List& list) {
  std::vector<std::string> known;
  for (const auto& element : list) known.push_back(element.name());
  return known;
}

bool contains(const std::vector<std::string>& words, const std::string& word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

// What stands in a run folder beside the stages' folders.
const std::vector<std::string>& names_taken() {
  static const std::vector<std::string> names = {"STOP",
                                                 "bad-nodes",
                                                 "corpora",
                                                 "events.jsonl",
                                                 "jobs.tsv",
                                                 "launch.json",
                                                 "lock",
                                                 "logs",
                                                 "metrics.jsonl",
                                                 "ranks",
                                                 "recipe.textproto",
                                                 "submit.lock",
                                                 "submit.sh",
                                                 "summary.json",
                                                 "tokenizer.model"};
  return names;
}

// Not with std::regex: it recurses once a character, and a long name would end the program.
bool names_a_folder(std::string_view name) {
  constexpr std::string_view may_begin =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_";
  return !name.empty() && may_begin.find(name.front()) != std::string_view::npos &&
         std::ranges::all_of(name, [&](char c) {
           return c == '.' || c == '-' || may_begin.find(c) != std::string_view::npos;
         });
}

// Names must exist, be usable as a folder, and differ.
template <class List>
void check_names(ParsedRecipe& recipe, const std::string& field, const List& list) {
  std::vector<std::string> seen;
  for (int i = 0; i < list.size(); ++i) {
    const std::string path = field + "." + std::to_string(i) + ".name";
    const std::string& name = list[i].name();
    recipe.require(!name.empty(), path, "is missing", "give every element a name");
    recipe.require(names_a_folder(name), path, "\"" + name + "\" cannot name a folder",
                   "use letters, digits, '-', '_' and '.'");
    recipe.require(!contains(seen, name), path, "\"" + name + "\" is used twice",
                   "rename one of them");
    seen.push_back(name);
  }
}

const std::map<Stage::Kind, std::vector<std::string>>& fields_of_kind() {
  static const std::map<Stage::Kind, std::vector<std::string>> fields = {
      {Stage::PREPARE, {"command", "product"}},
      {Stage::TOKENIZER, {}},
      {Stage::CORPUS, {}},
      {Stage::PRETRAIN,
       {"start_from", "corpus", "held_out", "steps", "batch", "optimizer", "mlm", "rdm",
        "hidden_dropout", "attention_dropout", "document_mask", "language_alpha", "evaluate",
        "guard"}},
      {Stage::ADAPT,
       {"start_from", "tasks", "steps", "batch", "optimizer", "rdm", "hidden_dropout",
        "attention_dropout", "evaluate", "guard"}},
      {Stage::SCORE,
       {"start_from", "tasks", "decoding", "metric", "baseline", "samples", "limit"}}};
  return fields;
}

void check_fields_of_stage(ParsedRecipe& recipe, const Stage& stage) {
  const std::string path = "stages." + stage.name() + ".";
  const std::string kind = Stage::Kind_Name(stage.kind());
  recipe.require(stage.kind() != Stage::UNSET, path + "kind", "is missing",
                 "use one of " + join(names(Stage::Kind_descriptor()), ", "));
  const std::vector<std::string>& allowed = fields_of_kind().at(stage.kind());
  std::vector<const pb::FieldDescriptor*> present;
  stage.GetReflection()->ListFields(stage, &present);
  for (const pb::FieldDescriptor* field : present) {
    const std::string& name = field->name();
    recipe.require(name == "name" || name == "kind" || contains(allowed, name), path + name,
                   "has no meaning in a stage of kind " + kind,
                   allowed.empty() ? "remove it" : "remove it, or use: " + join(allowed, ", "));
  }
  recipe.require(!(stage.has_mlm() && stage.has_rdm()), path + "rdm", "excludes mlm",
                 "a stage has one kind of noise: remove one");
  recipe.require(stage.kind() != Stage::ADAPT || !stage.batch().has_sequence_length(),
                 path + "batch.sequence_length", "has no meaning in a stage of kind ADAPT",
                 "set max_length of its tasks instead");
}

// `value` must name an element of a list of the recipe.
void check_reference(ParsedRecipe& recipe, const std::string& path, const std::string& value,
                     const std::string& list, const std::vector<std::string>& known) {
  recipe.require(!value.empty(), path, "is missing",
                 "name one of the recipe's " + list + ": " + join(known, ", "));
  recipe.require(contains(known, value), path, "\"" + value + "\" is not among the " + list,
                 known.empty() ? "add it to " + list
                               : "known are: " + join(known, ", ") + did_you_mean(value, known));
}

void check_start(ParsedRecipe& recipe, const Stage& stage,
                 const std::vector<std::string>& earlier_training) {
  const std::string path = "stages." + stage.name() + ".start_from";
  const std::string& from = stage.start_from();
  const bool may_be_scratch = is_training(stage);
  if (may_be_scratch && from == "scratch") return;
  const std::string choices = join(earlier_training, ", ");
  std::string remedy = choices.empty() ? "no training stage stands before this one"
                                       : "earlier training stages are: " + choices;
  if (may_be_scratch) remedy += "; or start from \"scratch\"";
  recipe.require(!from.empty(), path, "is missing", remedy);
  recipe.require(contains(earlier_training, from), path,
                 "\"" + from + "\" is not an earlier training stage", remedy);
}

// A step's plan names every micro-batch, and a held-out loss cannot be interrupted.
constexpr Range kMicroBatches{1, 1e6, "between 1 and 1000000"};
// As many cores as a thread can be pinned to.
constexpr Range kThreads{0, 1024, "between 1 and 1024, or 0 for a share of the cores"};

constexpr double kLargestSize = 1e6;  // of a model's side; products of two stay exact in int64

void check_model(ParsedRecipe& recipe) {
  const recipe::Model& m = recipe.message().model();
  const int tensor = recipe.message().parallel().tensor();
  for (const auto& [field, value] : {std::pair{"layers", m.layers()},
                                     {"hidden", m.hidden()},
                                     {"heads", m.heads()},
                                     {"ffn", m.ffn()}})
    check_range(recipe, std::string("model.") + field, value,
                {1, kLargestSize, "between 1 and 1000000"});
  check_range(recipe, "model.positions", m.positions(), {4, kLargestSize, "between 4 and 1000000"});
  check_range(recipe, "model.hidden_dropout", m.hidden_dropout(), kBelowOne);
  check_range(recipe, "model.attention_dropout", m.attention_dropout(), kBelowOne);
  check_range(recipe, "model.init_stddev", m.init_stddev(), kBelowOne);
  recipe.require(
      m.hidden() % m.heads() == 0, "model.heads",
      std::to_string(m.heads()) + " heads do not divide hidden = " + std::to_string(m.hidden()),
      "choose heads among the divisors of hidden");
  recipe.require(m.heads() % tensor == 0 && m.ffn() % tensor == 0, "parallel.tensor",
                 std::to_string(tensor) + " does not divide heads = " + std::to_string(m.heads()) +
                     " and ffn = " + std::to_string(m.ffn()),
                 "lower it");
}

void check_parallel(ParsedRecipe& recipe, RanksOf ranks) {
  const recipe::Parallel& p = recipe.message().parallel();
  check_range(recipe, "parallel.ranks", p.ranks(), kAtLeastOne);
  check_range(recipe, "parallel.threads", p.threads(), kThreads);
  check_range(recipe, "parallel.peak_gflops", p.peak_gflops(), kNotNegative);
  recipe.require(!p.tune_products() || p.device() != recipe::Parallel::CPU,
                 "parallel.tune_products", "chooses among a GPU's products, and device is CPU",
                 "remove one of them");
  const int tensor = p.tensor();
  recipe.require(tensor == 1 || tensor == 2 || tensor == 4 || tensor == 8, "parallel.tensor",
                 "is " + std::to_string(tensor), "must be 1, 2, 4 or 8");
  recipe.require(
      ranks == RanksOf::launcher || p.ranks() % tensor == 0, "parallel.ranks",
      std::to_string(p.ranks()) + " ranks are not a multiple of tensor = " + std::to_string(tensor),
      "change one of them");
}

// Whether some state of the stage before its last is both measured and saved.
bool measures_what_is_saved(const Stage& stage, std::int64_t save_every) {
  const std::int64_t measure_every = stage.evaluate().every_steps();
  const bool measured = stage.kind() == Stage::ADAPT || !stage.held_out().empty();
  if (!is_training(stage) || !measured || measure_every == 0 || save_every == 0) return false;
  // Their least common multiple, without its overflow.
  return save_every / std::gcd(save_every, measure_every) <= (stage.steps() - 1) / measure_every;
}

void check_checkpoints(ParsedRecipe& recipe) {
  const recipe::Checkpoint& c = recipe.message().checkpoint();
  check_range(recipe, "checkpoint.every_steps", c.every_steps(), kNotNegative);
  check_range(recipe, "checkpoint.keep_last", c.keep_last(), kNotNegative);
  check_range(recipe, "checkpoint.keep_every_steps", c.keep_every_steps(), kNotNegative);
  check_range(recipe, "checkpoint.keep_best", c.keep_best(), kNotNegative);
  const std::int64_t every = c.keep_every_steps();
  recipe.require(
      every == 0 || (c.every_steps() > 0 && every % c.every_steps() == 0),
      "checkpoint.keep_every_steps",
      std::to_string(every) + " is no multiple of every_steps = " + std::to_string(c.every_steps()),
      "checkpoints are written at multiples of every_steps only");
  recipe.require(c.keep_last() > 0 || (every == 0 && c.keep_best() == 0), "checkpoint.keep_last",
                 "0 keeps all: keep_every_steps and keep_best have no effect",
                 "set it to 1 or more, or remove them");
  const auto& stages = recipe.message().stages();
  recipe.require(c.keep_best() == 0 || std::any_of(stages.begin(), stages.end(),
                                                   [&](const Stage& stage) {
                                                     return measures_what_is_saved(stage,
                                                                                   c.every_steps());
                                                   }),
                 "checkpoint.keep_best", "has nothing to compare",
                 "set evaluate.every_steps of a stage so that it meets checkpoint.every_steps");
}

void check_recovery(ParsedRecipe& recipe, RanksOf ranks) {
  const recipe::Recovery& r = recipe.message().recovery();
  check_range(recipe, "recovery.attempts", r.attempts(), kAtLeastOne);
  check_range(recipe, "recovery.delay_seconds", r.delay_seconds(), kNotNegative);
  check_range(recipe, "recovery.longest_delay_seconds", r.longest_delay_seconds(), kNotNegative);
  check_range(recipe, "recovery.min_ranks", r.min_ranks(), kNotNegative);
  const int most = recipe.message().parallel().ranks();
  recipe.require(ranks == RanksOf::launcher || r.min_ranks() <= most, "recovery.min_ranks",
                 std::to_string(r.min_ranks()) + " of " + std::to_string(most) + " ranks",
                 "lower it, or raise parallel.ranks");
  recipe.require(r.hang_factor() == 0 || r.hang_factor() >= 1, "recovery.hang_factor",
                 "is " + number(r.hang_factor()), "must be 1 or greater, or 0 for none");
  check_range(recipe, "recovery.self_check_every_steps",
              static_cast<double>(r.self_check_every_steps()), kNotNegative);
  recipe.require(r.self_check_every_steps() == 0 || recipe.message().reduction() == recipe::EXACT,
                 "recovery.self_check_every_steps",
                 "needs reduction: EXACT, with which other ranks compute the same bits",
                 "set it to 0, or use EXACT");
}

void check_optimizer(ParsedRecipe& recipe, const Stage& stage) {
  const std::string path = "stages." + stage.name() + ".optimizer.";
  const recipe::Optimizer& o = stage.optimizer();
  recipe.require(o.has_lr(), path + "lr", "is missing", "set the peak learning rate");
  check_range(recipe, path + "lr", o.lr(), kPositive);
  check_range(recipe, path + "final_fraction", o.final_fraction(), kFraction);
  const bool declines =
      o.schedule() == recipe::Optimizer::LINEAR || o.schedule() == recipe::Optimizer::COSINE;
  recipe.require(declines || o.final_fraction() == 0, path + "final_fraction",
                 "has no meaning with schedule " + recipe::Optimizer::Schedule_Name(o.schedule()),
                 "remove it, or use LINEAR or COSINE");
  check_range(recipe, path + "beta1", o.beta1(), kBelowOne);
  check_range(recipe, path + "beta2", o.beta2(), kBelowOne);
  check_range(recipe, path + "epsilon", o.epsilon(), kPositive);
  check_range(recipe, path + "weight_decay", o.weight_decay(), kNotNegative);
  check_range(recipe, path + "clip_norm", o.clip_norm(), kNotNegative);
  recipe.require(
      o.warmup_steps() >= 0 && o.warmup_steps() <= stage.steps(), path + "warmup_steps",
      std::to_string(o.warmup_steps()) + " of " + std::to_string(stage.steps()) + " steps",
      "must be between 0 and the stage's steps");
}

void check_noise(ParsedRecipe& recipe, const Stage& stage) {
  const std::string path = "stages." + stage.name() + ".";
  if (stage.has_mlm()) {
    const recipe::Mlm& m = stage.mlm();
    check_range(recipe, path + "mlm.mask_fraction", m.mask_fraction(), kFraction);
    check_range(recipe, path + "mlm.mask_fraction", m.mask_fraction(), kPositive);
    check_range(recipe, path + "mlm.keep_fraction", m.keep_fraction(), kFraction);
    check_range(recipe, path + "mlm.random_fraction", m.random_fraction(), kFraction);
    recipe.require(m.keep_fraction() + m.random_fraction() <= 1, path + "mlm.keep_fraction",
                   "keep_fraction + random_fraction is more than 1", "lower one of them");
  } else {
    check_range(recipe, path + "rdm.time_steps", stage.rdm().time_steps(), kAtLeastOne);
    check_range(recipe, path + "rdm.label_smoothing", stage.rdm().label_smoothing(), kBelowOne);
  }
}

void check_positions(ParsedRecipe& recipe, const std::string& path, std::int64_t length) {
  const std::int64_t positions = recipe.message().model().positions();
  recipe.require(length + 2 <= positions, path,
                 std::to_string(length) + " tokens need model.positions >= " +
                     std::to_string(length + 2) + ", it is " + std::to_string(positions),
                 "lower it, or raise model.positions");
}

// The longest sequence must fit the position table and a micro-batch.
void check_length(ParsedRecipe& recipe, const Stage& stage, const std::string& path, int length) {
  const std::int64_t copies = stage.has_rdm() && stage.rdm().coupled() ? 2 : 1;
  check_positions(recipe, path, length);
  recipe.require(stage.batch().max_tokens() >= copies * length,
                 "stages." + stage.name() + ".batch.max_tokens",
                 std::to_string(stage.batch().max_tokens()) + " tokens hold no sequence of " +
                     std::to_string(length) + (copies == 2 ? " in two coupled copies" : ""),
                 "raise it to at least " + std::to_string(copies * length));
}

void check_guard(ParsedRecipe& recipe, const Stage& stage) {
  const std::string path = "stages." + stage.name() + ".guard.";
  const recipe::Guard& g = stage.guard();
  check_range(recipe, path + "bad_in_a_row", g.bad_in_a_row(), kAtLeastOne);
  check_range(recipe, path + "rollbacks", g.rollbacks(), kNotNegative);
  check_range(recipe, path + "window", g.window(), kAtLeastOne);
  for (const auto& [field, factor] :
       {std::pair{"loss_spike", g.loss_spike()}, {"norm_spike", g.norm_spike()}})
    recipe.require(factor == 0 || factor > 1, path + field, "is " + number(factor),
                   "must be greater than 1, or 0 for none");
}

void check_training(ParsedRecipe& recipe, const Stage& stage) {
  const Recipe& r = recipe.message();
  const std::string path = "stages." + stage.name() + ".";
  recipe.require(stage.has_steps(), path + "steps", "is missing", "set the number of updates");
  check_range(recipe, path + "steps", static_cast<double>(stage.steps()), kAtLeastOne);
  check_range(recipe, path + "batch.micro_batches", stage.batch().micro_batches(), kMicroBatches);
  check_range(recipe, path + "hidden_dropout", stage.hidden_dropout(), kBelowOne);
  check_range(recipe, path + "attention_dropout", stage.attention_dropout(), kBelowOne);
  if (stage.has_evaluate()) {
    check_range(recipe, path + "evaluate.every_steps",
                static_cast<double>(stage.evaluate().every_steps()), kNotNegative);
    check_range(recipe, path + "evaluate.micro_batches", stage.evaluate().micro_batches(),
                kMicroBatches);
  }
  check_optimizer(recipe, stage);
  check_guard(recipe, stage);
  check_noise(recipe, stage);
  if (stage.kind() == Stage::PRETRAIN) {
    check_reference(recipe, path + "corpus", stage.corpus(), "corpora", names_of(r.corpora()));
    if (!stage.held_out().empty())
      check_reference(recipe, path + "held_out", stage.held_out(), "corpora",
                      names_of(r.corpora()));
    check_range(recipe, path + "language_alpha", stage.language_alpha(), kFraction);
    check_range(recipe, path + "batch.sequence_length", stage.batch().sequence_length(),
                {8, 1e9, "8 or greater"});
    check_length(recipe, stage, path + "batch.sequence_length", stage.batch().sequence_length());
    return;
  }
  recipe.require(!stage.tasks().empty(), path + "tasks", "is missing",
                 "name one of the recipe's tasks: " + join(names_of(r.tasks()), ", "));
  for (int i = 0; i < stage.tasks_size(); ++i) {
    const std::string element = path + "tasks." + std::to_string(i);
    check_reference(recipe, path + "tasks", stage.tasks(i), "tasks", names_of(r.tasks()));
    for (const recipe::Task& task : r.tasks())
      if (task.name() == stage.tasks(i))
        check_length(recipe, stage, "tasks." + task.name() + ".max_length", task.max_length());
  }
}

void check_score(ParsedRecipe& recipe, const Stage& stage) {
  const std::string path = "stages." + stage.name() + ".";
  recipe.require(stage.tasks_size() == 1, path + "tasks",
                 std::to_string(stage.tasks_size()) + " tasks", "a SCORE stage scores exactly one");
  check_reference(recipe, path + "tasks", stage.tasks(0), "tasks",
                  names_of(recipe.message().tasks()));
  for (const recipe::Task& task : recipe.message().tasks())
    if (task.name() == stage.tasks(0))
      check_positions(recipe, "tasks." + task.name() + ".max_length", task.max_length());
  const recipe::Decoding& d = stage.decoding();
  check_range(recipe, path + "decoding.steps", d.steps(), kAtLeastOne);
  check_range(recipe, path + "decoding.temperature", d.temperature(), kNotNegative);
  check_range(recipe, path + "decoding.stochastic", d.stochastic(), kNotNegative);
  check_range(recipe, path + "decoding.max_tokens", static_cast<double>(d.max_tokens()),
              kAtLeastOne);
  check_range(recipe, path + "decoding.length_tokens", d.length_tokens(), kNotNegative);
  recipe.require((d.length() == recipe::Decoding::FIXED) == (d.length_tokens() > 0),
                 path + "decoding.length_tokens",
                 d.length_tokens() > 0 ? "is given, but length is not FIXED" : "is missing",
                 "length: FIXED and length_tokens go together");
  if (d.length_tokens() > 0)  // between <s> and </s>, even where the prompt is empty
    check_positions(recipe, path + "decoding.length_tokens", std::int64_t{d.length_tokens()} + 2);
  check_range(recipe, path + "samples", stage.samples(), kNotNegative);
  check_range(recipe, path + "limit", static_cast<double>(stage.limit()), kNotNegative);
}

}  // namespace

void check_presence(ParsedRecipe& recipe) {
  Recipe& r = recipe.message();
  recipe.require(names_a_folder(r.name()), "name",
                 r.name().empty() ? "is missing" : "\"" + r.name() + "\" cannot name a folder",
                 "use letters, digits, '-', '_' and '.'");
  check_names(recipe, "corpora", r.corpora());
  check_names(recipe, "tasks", r.tasks());
  check_names(recipe, "stages", r.stages());
  for (int i = 0; i < r.stages_size(); ++i)
    recipe.require(!contains(names_taken(), r.stages(i).name()),
                   "stages." + std::to_string(i) + ".name",
                   "\"" + r.stages(i).name() + "\" is a name that every run folder uses itself",
                   "choose another one");
  recipe.require(!r.stages().empty(), "stages", "there are none", "add at least one stage");
  const Recipe copy = r;  // pointing at a field may add an empty message around it
  for (const Stage& stage : copy.stages()) check_fields_of_stage(recipe, stage);
  check_unread(recipe);
}

void check_values(ParsedRecipe& recipe, RanksOf ranks) {
  const Recipe r = recipe.message();
  check_inputs(recipe);
  check_parallel(recipe, ranks);
  check_checkpoints(recipe);
  check_recovery(recipe, ranks);
  std::vector<std::string> earlier_training;
  bool model_checked = false;
  for (const Stage& stage : r.stages()) {
    const std::string path = "stages." + stage.name() + ".";
    if (stage.kind() == Stage::PREPARE) {
      recipe.require(!stage.command().empty(), path + "command", "is missing",
                     "name the program and its arguments");
      recipe.require(!stage.product().empty(), path + "product", "is missing",
                     "name a file that exists when the command has succeeded");
    }
    if (is_training(stage)) {
      if (!model_checked) check_model(recipe);
      model_checked = true;
      check_start(recipe, stage, earlier_training);
      check_training(recipe, stage);
      earlier_training.push_back(stage.name());
    }
    if (stage.kind() == Stage::SCORE) {
      check_start(recipe, stage, earlier_training);
      check_score(recipe, stage);
    }
  }
  if (model_checked) check_attention(recipe);
}

}  // namespace demist::config
