// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/commands/decoding_options.hpp"

namespace demist::cli {

void add_decoding_options(Options& options) {
  options.value("steps", "S", "denoising iterations; default: 10")
      .value("schedule", "NAME", "cosine (slow start, fast finish) or linear")
      .value("routing", "NAME", "uncond (every position competes again) or cond")
      .value("temperature", "T", "of sampling; default: 0, the most likely token")
      .value("stochastic", "X", "Gumbel noise on the choice of positions; default: 0")
      .value("seed", "N", "names the random numbers; default: 1")
      .value("precision", "NAME", "bf16 or fp32")
      .value("tokenizer", "FILE", "default: tokenizer.model in the run folder of MODEL");
}

generate::SamplerOptions sampler_options(const Options& options) {
  generate::SamplerOptions sampler;
  sampler.steps = options.integer("steps", sampler.steps, 1);
  sampler.temperature = options.real("temperature", 0, 0);
  sampler.stochastic = options.real("stochastic", 0, 0);
  sampler.seed = options.integer<std::uint64_t>("seed", 1, 0);
  if (options.choice("schedule", {"cosine", "linear"}) == "linear")
    sampler.schedule = generate::RateSchedule::linear;
  if (options.choice("routing", {"uncond", "cond"}) == "cond")
    sampler.routing = generate::Routing::cond;
  return sampler;
}

DType compute_option(const Options& options) {
  return options.choice("precision", {"bf16", "fp32"}) == "fp32" ? DType::f32 : DType::bf16;
}

}  // namespace demist::cli
