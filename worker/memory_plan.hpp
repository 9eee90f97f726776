// What a rank of a training stage allocates, by part: known before anything is allocated.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/mpi.hpp"
#include "kernels/backend.hpp"
#include "worker/config.hpp"
#include "worker/model/parameters.hpp"
#include "worker/parallel/communicator.hpp"

namespace demist {

// All that the memory of one rank depends on.
struct MemoryRequest {
  ModelConfig model;
  DType compute = DType::bf16;
  Reduction reduction = Reduction::exact;
  Recompute recompute = Recompute::none;
  ParallelLayout layout;
  std::int64_t micro_batches = 1;  // a step, over all groups
  // Of a micro-batch, at most: tokens (padding included), sequences, targets.
  std::int64_t tokens = 0, sequences = 0, targets = 0;
  bool on_device = false;    // a GPU, with NCCL between ranks; else host memory and MPI
  std::int64_t columns = 0;  // of every micro-batch, where all have as many; else 0
  AttentionPath attention = AttentionPath::own;  // cudnn: only with columns
};

// Bytes of the memory that the rank computes in. Beside it a run needs memory that is not planned:
// batches made ahead, and what MPI, CUDA, NCCL and oneDNN take.
struct MemoryPlan {
  std::size_t weights = 0;      // working copy: matrices in the compute type, vectors in fp32
  std::size_t gradients = 0;    // fp32: of all that is held here, and this rank's share of the sum
  std::size_t sums = 0;         // over micro-batches and ranks: int64 (EXACT) or fp32 (FAST)
  std::size_t optimizer = 0;    // this rank's share of masters and moments (ZeRO-1)
  std::size_t activations = 0;  // kept between the passes
  std::size_t head = 0;         // rows of targets, and one chunk of their logits
  std::size_t work = 0;         // gradients between operations, a device's workspace and batch
  std::size_t exchange = 0;     // received terms of sums over ranks
  std::size_t checkpoint = 0;   // the copy that a save on its way holds; a GPU's is in host memory
  std::size_t from_start = 0;   // of `work` and `exchange`: there before a stage is planned

  std::size_t total() const;
  struct Part {
    const char* name;
    std::size_t bytes;
  };
  std::vector<Part> parts() const;
};

MemoryPlan plan_memory(const MemoryRequest& request);
// The same sizes for Backend::prepare().
StepShape step_shape(const MemoryRequest& request, const ParameterTable& table);
// The largest number of tokens in whole sequences of `length` (`targets_each` targets each) whose
// plan has at most `bytes`; 0: not even one fits.
std::int64_t most_tokens(MemoryRequest request, std::int64_t length, std::int64_t targets_each,
                         std::size_t bytes);

// The plan of this rank. Collective over world; throws EnvironmentError, on all ranks and before
// anything is allocated, when some machine or device has not enough memory for its ranks.
MemoryPlan require_memory(const mpi::Comm& world, const MemoryRequest& request, Memory& memory);

const char* name_of(Recompute recompute);  // as recipes write it
// "6.21 GB: weights 0.56 GB, ..." of a plan.
std::string to_string(const MemoryPlan& plan);

}  // namespace demist
