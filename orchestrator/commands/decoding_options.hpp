// The options of the sampler, shared by `generate` and `evaluate`.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/tensor.hpp"
#include "orchestrator/cli.hpp"
#include "worker/generate/sampler.hpp"

namespace demist::cli {

void add_decoding_options(Options& options);
generate::SamplerOptions sampler_options(const Options& options);
DType compute_option(const Options& options);

}  // namespace demist::cli
