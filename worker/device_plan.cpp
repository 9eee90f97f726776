// SPDX-License-Identifier: Apache-2.0
#include "worker/device_plan.hpp"

#include <nlohmann/json.hpp>

#include "core/checksum.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"

namespace demist {
namespace {

using nlohmann::ordered_json;

constexpr const char* kFormat = "demist.device-plan/1";
constexpr const char* kRemedy =
    "; restore it, or delete it: the stage then makes a new one, and the last bits of its further "
    "steps may differ";
// NVIDIA's guess is rarely far off: the best lies among the first few.
constexpr int kCandidates = 8;

std::string checksum_of(const ordered_json& plan) { return sha256_hex(plan.dump()); }

bool all_alike(const mpi::Comm& world, const DeviceIdentity& mine) {
  return same_on_all(world, describe(mine));
}

// Rank 0's plan, as all ranks read it.
DevicePlan shared(const mpi::Comm& world, const std::optional<DevicePlan>& plan) {
  return device_plan_from_json(world.broadcast(plan ? to_json(*plan) : std::string(), 0));
}

void adopt(const mpi::Comm& world, Trainer& trainer, const DevicePlan& plan,
           const std::filesystem::path& file) {
  mpi::together(world, "device plan", [&] {
    try {
      trainer.product_chooser()->adopt(plan.products);
    } catch (const DataError& error) {
      throw DataError(file.string() + ": " + error.what() + kRemedy);
    }
  });
}

// Rank 0: the plan that the stage keeps, if any, and what there is to say about it.
std::optional<DevicePlan> kept_plan(const PlanQuestion& question, const DeviceIdentity& here) {
  const std::string where = "stage " + question.stage + ": ";
  auto plan = read_device_plan(question.file);
  if (!plan) {
    if (question.goes_on && question.measure)
      log::warning(where +
                   "has no device plan so far; its products are measured now, and the last "
                   "bits of its further steps depend on that");
    return std::nullopt;
  }
  if (plan->device != here) {
    log::warning(where + "its device plan was made on " + describe(plan->device) +
                 ", and here is " + describe(here) +
                 ": a new one is made, and its further steps have other last bits "
                 "than they would have there");
    return std::nullopt;
  }
  if (plan->measured != question.measure)
    log::info(where +
              (plan->measured ? "keeps its products as they were measured"
                              : "keeps the library's first choice for its products") +
              ", as it began; to choose again, delete " + question.file.string());
  return plan;
}

void write_plan(const PlanQuestion& question, const DevicePlan& plan) {
  std::filesystem::create_directories(question.file.parent_path());
  atomic_write(question.file, to_json(plan));
}

}  // namespace

bool same_on_all(const mpi::Comm& world, const std::string& mine) {
  return world.all_reduce_sum(mine == world.broadcast(mine, 0) ? 1 : 0) == world.size();
}

AttentionPath attention_path_named(const std::string& name) {
  for (const AttentionPath path : kAttentionPaths)
    if (name == name_of(path)) return path;
  throw DataError("names attention '" + name + "', which is none");
}

std::string to_json(const DevicePlan& plan) {
  ordered_json json{{"format", kFormat},
                    {"gpu", plan.device.gpu},
                    {"multiprocessors", plan.device.multiprocessors},
                    {"library", plan.device.library},
                    {"attention", name_of(plan.attention.path)},
                    {"attention_library", plan.attention.library},
                    {"measured", plan.measured}};
  json["products"] = ordered_json::array();
  for (const ProductPlan& product : plan.products)
    json["products"].push_back({{"product", product.product}, {"algorithm", product.algorithm}});
  json["sha256"] = checksum_of(json);
  return json.dump(1) + "\n";
}

DevicePlan device_plan_from_json(const std::string& text) {
  try {
    auto json = ordered_json::parse(text);
    if (json.at("format") != kFormat)
      throw DataError("is a device plan of format " + json.at("format").dump() + ", not " +
                      kFormat);
    const std::string checksum = json.at("sha256");
    json.erase("sha256");
    if (checksum_of(json) != checksum) throw DataError("does not have the checksum that it names");
    DevicePlan plan;
    plan.device = {json.at("gpu"), json.at("multiprocessors"), json.at("library")};
    // Plans of stages that began before there was a choice have neither.
    plan.attention.path = attention_path_named(json.value("attention", "OWN"));
    plan.attention.library = json.value("attention_library", "");
    plan.measured = json.at("measured");
    for (const auto& product : json.at("products"))
      plan.products.push_back({product.at("product"), product.at("algorithm")});
    return plan;
  } catch (const nlohmann::json::exception& error) {
    throw DataError(std::string("is no device plan: ") + error.what());
  }
}

std::optional<DevicePlan> read_device_plan(const std::filesystem::path& file) {
  if (!std::filesystem::exists(file)) return std::nullopt;
  try {
    return device_plan_from_json(read_file(file));
  } catch (const DataError& error) {
    throw DataError(file.string() + " " + error.what() + kRemedy);
  }
}

void settle_device_plan(const mpi::Comm& world, Trainer& trainer, const PlanQuestion& question) {
  if (trainer.product_chooser() == nullptr) return;
  const DeviceIdentity here = trainer.product_chooser()->identity();
  if (!all_alike(world, here)) {
    log::warning("stage " + question.stage +
                 ": the ranks' GPUs or libraries differ, so products have "
                 "the library's first choice on each, and last bits depend on who computes what");
    return;
  }
  const bool speaks = world.rank() == 0;
  std::optional<DevicePlan> plan;
  mpi::together(world, "device plan", [&] {
    if (!speaks) return;
    plan = kept_plan(question, here);
    if (!plan || plan->attention == question.attention) return;
    plan->attention = question.attention;
    write_plan(question, *plan);
  });
  if (world.all_reduce_sum(plan ? 1 : 0) == 0) {
    DevicePlan fresh{here, question.attention, question.measure, {}};
    if (question.measure) fresh.products = trainer.measure_products(kCandidates);
    mpi::together(world, "device plan", [&] {
      if (!speaks) return;
      write_plan(question, fresh);
      if (fresh.measured)
        log::info("stage " + question.stage + ": " + std::to_string(fresh.products.size()) +
                  " products are faster with another algorithm than the library's first choice; " +
                  question.file.string());
    });
    if (speaks) plan = std::move(fresh);
  }
  adopt(world, trainer, shared(world, plan), question.file);
}

void adopt_device_plan(const mpi::Comm& world, Trainer& trainer,
                       const std::filesystem::path& file) {
  if (trainer.product_chooser() == nullptr) return;
  const DeviceIdentity here = trainer.product_chooser()->identity();
  if (!all_alike(world, here)) return;
  std::optional<DevicePlan> plan;
  mpi::together(world, "device plan", [&] {
    if (world.rank() == 0) plan = read_device_plan(file);
    if (!plan || plan->device == here) return;
    log::warning("these steps were made on " + describe(plan->device) + ", and here is " +
                 describe(here) + ": last bits may differ because of that");
    plan.reset();
  });
  if (world.all_reduce_sum(plan ? 1 : 0) > 0) adopt(world, trainer, shared(world, plan), file);
}

}  // namespace demist
