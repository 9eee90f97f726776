// SPDX-License-Identifier: Apache-2.0
#include "worker/attention_choice.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "core/log.hpp"

namespace demist {
namespace {

// What the ranks have in common, if anything.
struct Here {
  DeviceIdentity device;
  std::size_t cudnn = 0;
  bool alike = false;
};
Here look_around(const mpi::Comm& world, Backend& backend) {
  Here here{backend.product_chooser()->identity(), backend.attention_chooser()->cudnn_version()};
  here.alike = same_on_all(world, describe(here.device) + ", " + cudnn_name(here.cudnn));
  return here;
}

// Of the stage's plan, where it holds here. Collective.
std::optional<AttentionPath> kept_path(const mpi::Comm& world, const Here& here,
                                       const std::filesystem::path& file) {
  if (!here.alike) return std::nullopt;
  std::string name;
  mpi::together(world, "device plan", [&] {
    if (world.rank() != 0) return;
    const auto plan = read_device_plan(file);
    if (!plan || plan->device != here.device) return;
    const PlannedAttention& attention = plan->attention;
    if (attention.path == AttentionPath::cudnn && attention.library != cudnn_name(here.cudnn))
      return log::warning("attention was computed by " + attention.library + ", and here is " +
                          (here.cudnn == 0 ? "none" : cudnn_name(here.cudnn)) +
                          ": further steps have other last bits than they would have there");
    name = name_of(attention.path);
  });
  name = world.broadcast(name, 0);
  if (name.empty()) return std::nullopt;
  return attention_path_named(name);
}

// Of the first rank whose check fails. Collective; empty: on all ranks it passes.
std::string fault_of(const mpi::Comm& world, AttentionChooser& chooser, AttentionPath path,
                     const AttentionShape& shape) {
  std::string mine;
  mpi::together(world, "check attention", [&] { mine = chooser.check(path, shape); });
  std::string first;
  const std::vector<std::string> all = world.gather(mine, 0);
  for (std::size_t rank = 0; rank < all.size() && first.empty(); ++rank)
    if (!all[rank].empty()) first = "rank " + std::to_string(rank) + ": " + all[rank];
  return world.broadcast(first, 0);
}

AttentionPath wished_path(AttentionWish wish) {
  if (wish == AttentionWish::unfused) return AttentionPath::unfused;
  return wish == AttentionWish::cudnn ? AttentionPath::cudnn : AttentionPath::own;
}

PlannedAttention planned(AttentionPath path, const Here& here) {
  return {path, path == AttentionPath::cudnn ? cudnn_name(here.cudnn) : ""};
}

// Every rank throws it. `usage`: no other machine would do, so nobody tries again.
[[noreturn]] void refuse(const AttentionQuestion& question, ExitCode code, const Refusal& refusal) {
  throw AgreedError(code, "stage " + question.stage + ": parallel.attention: " + refusal.why +
                              "; " + refusal.remedy);
}

AttentionChoice keep(const mpi::Comm& world, AttentionChooser& chooser, const Here& here,
                     AttentionPath path, const AttentionQuestion& question) {
  const std::string where = "stage " + question.stage + ": ";
  if (question.wish != AttentionWish::automatic && path != wished_path(question.wish))
    log::info(where + "keeps attention " + name_of(path) +
              ", as it began; to choose again, delete " + question.plan_file.string());
  if (path == AttentionPath::cudnn) {
    const std::string fault = fault_of(world, chooser, path, question.shape);
    if (!fault.empty())
      refuse(question, ExitCode::environment,
             {"the stage began with cuDNN, which now fails its check (" + fault + ")",
              "leave that machine out, or delete " + question.plan_file.string() +
                  " to choose again, with other last bits"});
  }
  return {planned(path, here), {}};
}

AttentionChoice choose(const mpi::Comm& world, AttentionChooser& chooser, const Here& here,
                       const AttentionQuestion& question) {
  const AttentionPath wished = wished_path(question.wish);
  const bool automatic = question.wish == AttentionWish::automatic;
  if (!automatic && wished != AttentionPath::cudnn) return {planned(wished, here), {}};
  CudnnCase facts = question.facts;
  facts.version = here.cudnn;
  Refusal refusal = here.alike ? cudnn_refusal(facts)
                               : Refusal{"the ranks' GPUs or libraries differ",
                                         "use machines that are alike, or OWN"};
  std::string fault;
  if (!refusal) {
    fault = fault_of(world, chooser, AttentionPath::cudnn, question.shape);
    if (fault.empty()) return {planned(AttentionPath::cudnn, here), {}};
    refusal = {"cuDNN fails its check (" + fault + ")", "leave that machine out, or use OWN"};
  }
  if (!automatic)
    refuse(question, fault.empty() ? ExitCode::usage : ExitCode::environment, refusal);
  log::write(fault.empty() ? log::Level::info : log::Level::warning,
             "stage " + question.stage + ": attention OWN, as cuDNN is not used: " + refusal.why);
  return {planned(AttentionPath::own, here), fault};
}

}  // namespace

AttentionQuestion attention_question(const TrainerConfig& config, const data::Source& train,
                                     const data::Source* held_out, const mpi::Comm& world) {
  AttentionQuestion question;
  question.stage = config.stage;
  question.facts = {0, data::whole_columns(train, held_out), config.model.head_dim(),
                    config.model.attention_dropout, config.compute};
  const std::int64_t heads = config.model.heads / config.tensor_parallel;
  AttentionShape& shape = question.shape;
  shape.rows = train.max_rows();
  shape.cols = question.facts.columns;
  shape.heads = heads;
  shape.first_head = world.rank() % config.tensor_parallel * heads;
  shape.head_dim = config.model.head_dim();
  shape.lse_ld = std::max(train.max_tokens(), held_out ? held_out->max_tokens() : 0);
  shape.dtype = config.compute;
  return question;
}

AttentionChoice settle_attention(const mpi::Comm& world, Backend& backend,
                                 const AttentionQuestion& question) {
  AttentionChooser* const chooser = backend.attention_chooser();
  if (chooser == nullptr) {
    const AttentionPath wished = wished_path(question.wish);
    if (wished != AttentionPath::own)
      refuse(question, ExitCode::usage,
             {std::string(name_of(wished)) + " is for GPUs, and this run is on CPUs",
              "use AUTO or OWN"});
    return {};
  }
  const Here here = look_around(world, backend);
  const auto kept = kept_path(world, here, question.plan_file);
  const AttentionChoice choice =
      kept ? keep(world, *chooser, here, *kept, question) : choose(world, *chooser, here, question);
  if (choice.planned.path != AttentionPath::own)
    log::info("stage " + question.stage + ": attention " + name_of(choice.planned.path) +
              (choice.planned.library.empty() ? "" : ", " + choice.planned.library));
  return choice;
}

AttentionPath planned_attention(const mpi::Comm& world, Backend& backend,
                                const std::filesystem::path& plan_file) {
  if (backend.attention_chooser() == nullptr) return AttentionPath::own;
  return kept_path(world, look_around(world, backend), plan_file).value_or(AttentionPath::own);
}

}  // namespace demist
