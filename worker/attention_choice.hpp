// What computes a stage's attention on GPUs: the recipe's wish, cuDNN's rules, and a check before
// the first step. Once chosen, it stays (docs/formats/device_plan.md).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

#include "core/mpi.hpp"
#include "data/source.hpp"
#include "kernels/backend.hpp"
#include "worker/attention_rules.hpp"
#include "worker/device_plan.hpp"
#include "worker/trainer.hpp"

namespace demist {

struct AttentionQuestion {
  std::string stage;
  std::filesystem::path plan_file;  // of the stage
  AttentionWish wish = AttentionWish::automatic;
  CudnnCase facts;       // but for the version
  AttentionShape shape;  // of this rank
};
AttentionQuestion attention_question(const TrainerConfig& config, const data::Source& train,
                                     const data::Source* held_out, const mpi::Comm& world);

struct AttentionChoice {
  PlannedAttention planned;
  std::string fault;  // cuDNN's rules held, but the check did not: "rank 2: dQ of ..."
};
// Collective, before memory is planned: the check needs some. A stage that has a plan keeps what
// stands there. Else UNFUSED and OWN are as wished; CUDNN and AUTO look at the rules and check
// cuDNN on every rank: AUTO takes OWN when anything is against it, CUDNN throws EnvironmentError,
// as does a kept CUDNN that no longer computes as it should. Without a choice of devices (CPU) all
// but AUTO and OWN throw EnvironmentError. Logs what was chosen and why.
AttentionChoice settle_attention(const mpi::Comm& world, Backend& backend,
                                 const AttentionQuestion& question);

// Collective. For a look at steps that were made: what the stage's plan says, if it is of this
// device; else OWN.
AttentionPath planned_attention(const mpi::Comm& world, Backend& backend,
                                const std::filesystem::path& plan_file);

}  // namespace demist
