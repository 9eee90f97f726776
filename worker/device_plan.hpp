// What a stage's GPUs compute with where they have a choice: once chosen, it stays, on every rank
// and after every stop (docs/formats/device_plan.md).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/mpi.hpp"
#include "kernels/attention_chooser.hpp"
#include "kernels/product_chooser.hpp"
#include "worker/trainer.hpp"

namespace demist {

struct PlannedAttention {
  AttentionPath path = AttentionPath::own;
  std::string library;  // "cuDNN 9.19.0", which CUDNN holds for
  bool operator==(const PlannedAttention&) const = default;
};
AttentionPath attention_path_named(const std::string& name);  // throws DataError

struct DevicePlan {
  DeviceIdentity device;  // which all of it holds for
  PlannedAttention attention;
  bool measured = false;  // else every product has the library's first choice
  std::vector<ProductPlan> products;
};
std::string to_json(const DevicePlan& plan);
DevicePlan device_plan_from_json(const std::string& text);  // throws DataError

// Nothing where there is no file. Throws DataError, with a way out, when it is damaged.
std::optional<DevicePlan> read_device_plan(const std::filesystem::path& file);

// Collective. Ranks with unlike devices have no plan in common.
bool same_on_all(const mpi::Comm& world, const std::string& mine);

struct PlanQuestion {
  std::string stage;
  std::filesystem::path file;
  bool measure = false;             // what the recipe wants of a stage that has no plan yet
  bool goes_on = false;             // from a checkpoint of its own
  PlannedAttention attention = {};  // that the trainer was made with (attention_choice.hpp)
};
// Collective. The trainer adopts the stage's plan. Where there is none, or one of another device,
// it is made: measured or not, as the recipe wants. Says in one line what differs from what one
// would expect. Nothing to do on a device without choices.
void settle_device_plan(const mpi::Comm& world, Trainer& trainer, const PlanQuestion& question);

// Collective. The same for a look at steps that were made: a plan of this device is adopted, and
// nothing is written.
void adopt_device_plan(const mpi::Comm& world, Trainer& trainer, const std::filesystem::path& file);

}  // namespace demist
