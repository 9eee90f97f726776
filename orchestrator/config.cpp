// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/config.hpp"

#include <algorithm>

#include "core/checksum.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "orchestrator/config_recipe.hpp"
#include "orchestrator/nearest.hpp"

namespace demist {
namespace {

using config::ParsedRecipe;
using recipe::Recipe;
using recipe::Stage;

constexpr std::string_view kRunFolder = "{run}";

// Paths are relative to the recipe's folder, but for those below the run folder.
void anchor(std::string* path, const fs::path& base) {
  if (path->empty() || path->starts_with(kRunFolder)) return;
  *path = (base / *path).lexically_normal().string();
}

void anchor_paths(Recipe& recipe, const fs::path& base) {
  anchor(recipe.mutable_tokenizer()->mutable_model(), base);
  for (std::string& input : *recipe.mutable_tokenizer()->mutable_inputs()) anchor(&input, base);
  for (recipe::Corpus& corpus : *recipe.mutable_corpora()) {
    anchor(corpus.mutable_folder(), base);
    for (auto& input : *corpus.mutable_inputs()) anchor(input.mutable_path(), base);
  }
  for (recipe::Task& task : *recipe.mutable_tasks()) anchor(task.mutable_file(), base);
  for (Stage& stage : *recipe.mutable_stages()) {
    anchor(stage.mutable_product(), base);
    const bool names_a_file =
        !stage.command().empty() && stage.command(0).find('/') != std::string::npos;
    if (names_a_file) anchor(stage.mutable_command(0), base);
  }
}

// The recipe's text for the run folder: every value filled in, every path absolute.
std::string resolved_text(Recipe recipe) {
  anchor_paths(recipe, fs::current_path());
  anchor(recipe.mutable_run_dir(), fs::current_path());
  std::string text;
  config::pb::TextFormat::Printer printer;
  printer.SetUseUtf8StringEscaping(true);
  printer.PrintToString(recipe, &text);
  return text;
}

class Converter {
 public:
  explicit Converter(const Recipe& recipe) : recipe_(recipe), run_(recipe.run_dir()) {}

  TokenizerConfig tokenizer() const {
    const recipe::Tokenizer& t = recipe_.tokenizer();
    TokenizerConfig config;
    config.trained = t.model().empty();
    config.model = config.trained ? run_ / "tokenizer.model" : place(t.model());
    for (const std::string& input : t.inputs()) config.training.inputs.push_back(place(input));
    config.training.pieces = t.pieces();
    config.training.character_coverage = t.character_coverage();
    config.training.max_bytes = t.max_bytes();
    return config;
  }

  CorpusConfig corpus(const recipe::Corpus& c) const {
    CorpusConfig config;
    config.built = c.folder().empty();
    config.build.name = c.name();
    config.build.output = config.built ? run_ / "corpora" / c.name() : place(c.folder());
    config.build.tokenizer = tokenizer().model;
    config.build.range_bytes = static_cast<std::uint64_t>(c.range_bytes());
    config.build.max_invalid_fraction = c.max_invalid();
    for (const recipe::Corpus::Input& input : c.inputs()) {
      const auto format = input.format() == recipe::Corpus::Input::JSONL ? data::TextFormat::jsonl
                                                                         : data::TextFormat::plain;
      config.build.inputs.push_back(
          {place(input.path()), input.language(), {format, input.json_field()}});
    }
    return config;
  }

  TaskConfig task(const recipe::Task& t) const {
    TaskConfig config;
    config.name = t.name();
    config.file = {place(t.file()), t.prompt(),    t.response(),
                   t.split_field(), t.template_(), t.ratio()};
    config.train_split = t.train();
    config.valid_split = t.valid();
    config.test_split = t.test();
    config.limit = static_cast<std::uint64_t>(t.limit());
    config.max_length = t.max_length();
    return config;
  }

  ModelConfig model() const {
    const recipe::Model& m = recipe_.model();
    ModelConfig config;
    config.layers = m.layers();
    config.hidden = m.hidden();
    config.ffn = m.ffn();
    config.heads = m.heads();
    config.positions = m.positions();
    config.norm = m.norm() == recipe::Model::PRE ? NormPlacement::pre : NormPlacement::post;
    config.hidden_dropout = m.hidden_dropout();
    config.attention_dropout = m.attention_dropout();
    config.init_stddev = m.init_stddev();
    return config;
  }

  StageWork work(const Stage& stage) const {
    switch (stage.kind()) {
      case Stage::PREPARE:
        return prepare(stage);
      case Stage::TOKENIZER:
        return TokenizerStage{};
      case Stage::CORPUS:
        return CorpusStage{};
      case Stage::PRETRAIN:
      case Stage::ADAPT:
        return training(stage);
      case Stage::SCORE:
        return score(stage);
      default:
        throw InternalError("stage of unknown kind");
    }
  }

 private:
  fs::path place(const std::string& path) const {
    if (!path.starts_with(kRunFolder)) return path;
    const std::string rest = path.substr(kRunFolder.size());
    return rest.empty() ? run_ : run_ / rest.substr(rest.front() == '/' ? 1 : 0);
  }

  PrepareStage prepare(const Stage& stage) const {
    PrepareStage config;
    for (const std::string& word : stage.command())
      config.command.push_back(word.starts_with(kRunFolder) ? place(word).string() : word);
    config.product = place(stage.product());
    return config;
  }

  static OptimizerConfig optimizer(const recipe::Optimizer& o, std::int64_t steps) {
    static const std::map<int, ScheduleKind> kinds = {
        {recipe::Optimizer::LINEAR, ScheduleKind::linear},
        {recipe::Optimizer::COSINE, ScheduleKind::cosine},
        {recipe::Optimizer::CONSTANT, ScheduleKind::constant},
        {recipe::Optimizer::INVERSE_SQRT, ScheduleKind::inverse_sqrt}};
    OptimizerConfig config;
    config.schedule = {kinds.at(o.schedule()), o.lr(), o.final_fraction(), o.warmup_steps(), steps};
    config.beta1 = o.beta1();
    config.beta2 = o.beta2();
    config.epsilon = o.epsilon();
    config.weight_decay = o.weight_decay();
    config.clip_norm = o.clip_norm();
    return config;
  }

  static data::Noise noise(const Stage& stage) {
    if (stage.has_mlm())
      return data::MlmNoise{stage.mlm().mask_fraction(), stage.mlm().keep_fraction(),
                            stage.mlm().random_fraction()};
    static const std::map<int, data::TimeWeight> weights = {
        {recipe::Rdm::LINEAR, data::TimeWeight::linear},
        {recipe::Rdm::RECIPROCAL, data::TimeWeight::reciprocal},
        {recipe::Rdm::CONSTANT, data::TimeWeight::constant}};
    const recipe::Rdm& rdm = stage.rdm();
    const bool independent = rdm.time_sampling() == recipe::Rdm::INDEPENDENT;
    return data::RdmNoise{
        rdm.time_steps(), weights.at(rdm.weight()),
        independent ? data::TimeSampling::independent : data::TimeSampling::stratified,
        rdm.coupled(), rdm.label_smoothing()};
  }

  TrainingStage training(const Stage& stage) const {
    TrainingStage config;
    if (stage.start_from() != "scratch") config.start_from = stage.start_from();
    config.corpus = stage.corpus();
    config.held_out = stage.held_out();
    config.tasks.assign(stage.tasks().begin(), stage.tasks().end());
    config.steps = stage.steps();
    config.batch = {stage.batch().micro_batches(), stage.batch().max_tokens(),
                    stage.batch().sequence_length()};
    for (const recipe::Task& t : recipe_.tasks())  // a task's longest pair is its longest sequence
      if (std::find(config.tasks.begin(), config.tasks.end(), t.name()) != config.tasks.end())
        config.batch.sequence_length = std::max(config.batch.sequence_length, t.max_length());
    config.optimizer = optimizer(stage.optimizer(), stage.steps());
    const recipe::Guard& guard = stage.guard();
    config.guard = {guard.bad_in_a_row(), guard.window(), guard.loss_spike(), guard.norm_spike()};
    config.rollbacks = guard.rollbacks();
    config.noise = noise(stage);
    config.hidden_dropout = stage.hidden_dropout();
    config.attention_dropout = stage.attention_dropout();
    config.document_mask = stage.document_mask();
    config.language_alpha = stage.language_alpha();
    config.evaluate_every = stage.evaluate().every_steps();
    config.held_out_micro_batches = stage.evaluate().micro_batches();
    return config;
  }

  static ScoreStage score(const Stage& stage) {
    const recipe::Decoding& d = stage.decoding();
    ScoreStage config;
    config.start_from = stage.start_from();
    config.task = stage.tasks(0);
    config.sampler.steps = d.steps();
    config.sampler.temperature = d.temperature();
    config.sampler.stochastic = d.stochastic();
    if (d.schedule() == recipe::Decoding::LINEAR)
      config.sampler.schedule = generate::RateSchedule::linear;
    if (d.routing() == recipe::Decoding::COND) config.sampler.routing = generate::Routing::cond;
    config.fixed_length = d.length_tokens();
    config.max_tokens = d.max_tokens();
    config.metric = stage.metric() == Stage::BLEU ? Metric::bleu : Metric::rouge_l;
    static const std::map<int, evaluate::Baseline> baselines = {
        {Stage::LEAD, evaluate::Baseline::lead},
        {Stage::COPY, evaluate::Baseline::copy},
        {Stage::FIRST_SENTENCE, evaluate::Baseline::first_sentence}};
    config.baseline = baselines.at(stage.baseline());
    config.samples = stage.samples();
    config.limit = static_cast<std::uint64_t>(stage.limit());
    return config;
  }

  const Recipe& recipe_;
  fs::path run_;
};

DeviceKind device_of(recipe::Parallel::Device device) {
  if (device == recipe::Parallel::CPU) return DeviceKind::cpu;
  return device == recipe::Parallel::CUDA ? DeviceKind::cuda : DeviceKind::automatic;
}

Recompute recompute_of(recipe::Parallel::Recompute recompute) {
  if (recompute == recipe::Parallel::LAYER) return Recompute::layer;
  return recompute == recipe::Parallel::GELU ? Recompute::gelu : Recompute::none;
}

AttentionWish attention_of(recipe::Attention attention) {
  static const std::map<int, AttentionWish> wishes = {{recipe::AUTO, AttentionWish::automatic},
                                                      {recipe::OWN, AttentionWish::own},
                                                      {recipe::UNFUSED, AttentionWish::unfused},
                                                      {recipe::CUDNN, AttentionWish::cudnn}};
  return wishes.at(attention);
}

void convert_parallel(const Recipe& recipe, RunConfig& config) {
  config.compute = recipe.precision() == recipe::FP32 ? DType::f32 : DType::bf16;
  config.reduction = recipe.reduction() == recipe::FAST ? Reduction::fast : Reduction::exact;
  config.ranks = recipe.parallel().ranks();
  config.tensor_parallel = recipe.parallel().tensor();
  config.threads = recipe.parallel().threads();
  config.device = device_of(recipe.parallel().device());
  config.recompute = recompute_of(recipe.parallel().recompute());
  config.tune_products = recipe.parallel().tune_products();
  config.attention = attention_of(recipe.parallel().attention());
  config.peak_gflops = recipe.parallel().peak_gflops();
  config.checkpoint_every = recipe.checkpoint().every_steps();
  config.keep = {recipe.checkpoint().keep_last(), recipe.checkpoint().keep_every_steps(),
                 recipe.checkpoint().keep_best()};
}

RecoveryConfig recovery_of(const recipe::Recovery& r) {
  return {r.attempts(),  r.delay_seconds(), r.longest_delay_seconds(),
          r.min_ranks(), r.hang_factor(),   r.self_check_every_steps()};
}

template <class List, class Name>
const auto& find_named(const List& list, const std::string& name, const char* what,
                       const Name& name_of) {
  std::vector<std::string> known;
  for (const auto& element : list) {
    if (name_of(element) == name) return element;
    known.push_back(name_of(element));
  }
  throw ConfigError("this recipe has no " + std::string(what) + " '" + name +
                    "'; it has: " + join(known, ", ") + did_you_mean(name, known));
}

// Names of the recipes in the folders that find_recipe looks into.
std::vector<std::string> recipe_names(const std::vector<fs::path>& folders) {
  std::vector<std::string> names;
  std::error_code none;  // a folder that is not there has no recipes
  for (const fs::path& folder : folders)
    for (const auto& entry : fs::directory_iterator(folder, none))
      if (entry.path().extension() == ".textproto") names.push_back(entry.path().stem().string());
  return names;
}

}  // namespace

const StageConfig& RunConfig::stage(const std::string& wanted) const {
  return find_named(stages, wanted, "stage", [](const StageConfig& s) { return s.name; });
}
const CorpusConfig& RunConfig::corpus(const std::string& wanted) const {
  return find_named(corpora, wanted, "corpus", [](const CorpusConfig& c) { return c.build.name; });
}
const TaskConfig& RunConfig::task(const std::string& wanted) const {
  return find_named(tasks, wanted, "task", [](const TaskConfig& t) { return t.name; });
}

RunConfig parse_recipe(const std::string& text, const fs::path& file,
                       const std::vector<std::string>& overrides, RanksOf ranks) {
  ParsedRecipe parsed(text, file.string());
  for (const std::string& assignment : overrides) parsed.set(assignment);
  check_presence(parsed);
  Recipe& recipe = parsed.message();
  config::apply_defaults(recipe);
  check_values(parsed, ranks);

  RunConfig config;
  config.hash = sha256_hex(config::result_text(recipe));
  std::map<std::string, std::string> stage_hash;  // before paths depend on where the recipe lies
  for (const Stage& stage : recipe.stages())
    stage_hash[stage.name()] = sha256_hex(config::result_text(recipe, stage.name()));
  anchor_paths(recipe, file.parent_path());
  config.resolved = resolved_text(recipe);

  const Converter converter(recipe);
  config.name = recipe.name();
  config.seed = recipe.seed();
  config.run_dir = recipe.run_dir();
  config.tokenizer = converter.tokenizer();
  config.model = converter.model();
  convert_parallel(recipe, config);
  config.recovery = recovery_of(recipe.recovery());
  for (const auto& corpus : recipe.corpora()) config.corpora.push_back(converter.corpus(corpus));
  for (const auto& task : recipe.tasks()) config.tasks.push_back(converter.task(task));
  for (const Stage& stage : recipe.stages())
    config.stages.push_back({stage.name(), converter.work(stage), config.run_dir / stage.name(),
                             stage_hash.at(stage.name()), config::dependencies(recipe, stage)});
  return config;
}

checkpoint::Retention retention_of(const RunConfig& run, const StageConfig& stage) {
  checkpoint::Retention keep = run.keep;
  const auto* work = std::get_if<TrainingStage>(&stage.work);
  if (work != nullptr && work->rollbacks > 0)
    keep.way_back = {work->guard.bad_in_a_row, run.checkpoint_every, work->steps};
  return keep;
}

RunConfig load_recipe(const fs::path& file, const std::vector<std::string>& overrides,
                      RanksOf ranks) {
  std::string text;
  try {
    text = read_file(file);
  } catch (const DataError& error) {
    throw ConfigError(error.what());
  }
  return parse_recipe(text, file, overrides, ranks);
}

fs::path find_recipe(const std::string& name) {
  if (fs::is_regular_file(name)) return name;
  const fs::path program = fs::read_symlink("/proc/self/exe").parent_path();
  const std::vector<fs::path> folders{"configs",
                                      (program / "../share/demist/configs").lexically_normal()};
  std::vector<std::string> tried{name};
  for (const fs::path& folder : folders) {
    tried.push_back((folder / (name + ".textproto")).string());
    if (fs::is_regular_file(tried.back())) return tried.back();
  }
  if (fs::exists(fs::path(name) / "recipe.textproto"))
    throw ConfigError(name + " is a run folder; to go on with it, run the recipe that made it");
  if (fs::is_directory(name)) throw ConfigError(name + " is a folder; name a recipe file");
  std::vector<std::string> known = recipe_names(folders);
  std::ranges::sort(known);
  known.erase(std::unique(known.begin(), known.end()), known.end());
  throw ConfigError("there is no recipe '" + name + "'; looked for " + join(tried, ", ") +
                    did_you_mean(name, known) +
                    (known.empty() ? "" : " (there are: " + join(known, ", ") + ")"));
}

}  // namespace demist
