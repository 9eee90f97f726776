// The reparameterized sampler of method section 4.1, over any function that returns logits.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

namespace demist::generate {

enum class Routing { uncond, cond };
enum class RateSchedule { cosine, linear };

struct SamplerOptions {
  std::int32_t steps = 10;  // S
  Routing routing = Routing::uncond;
  RateSchedule schedule = RateSchedule::cosine;
  double stochastic = 0;   // X of "stochasticX"; 0: deterministic
  double temperature = 0;  // 0: argmax
  std::uint64_t seed = 0;
  std::int32_t mask_id = 0;
  bool stop_when_done = true;  // skip forward passes and steps that cannot change the result
};

// One canvas: <s> prompt, `length` masks, </s>.
struct Request {
  std::vector<std::int32_t> prompt;  // ids without specials
  std::int32_t length = 0;           // response tokens without </s>
  std::uint64_t id = 0;              // names the request in the random streams
};
inline std::int64_t canvas_length(const Request& request) {
  return static_cast<std::int64_t>(request.prompt.size()) + request.length + 2;
}
struct Response {
  std::vector<std::int32_t> ids;  // [length]
  std::vector<float> score;       // committed log-probabilities [length]
  double mean_log_prob = 0;       // of the tokens that are not special (all, if every one is)
  std::int32_t steps_run = 0;     // of options.steps; fewer when the rest could change nothing
};

// A batch of canvases, right-padded: rows * cols ids. `wanted` lists token indices; the callee
// fills logits fp32 [wanted.size(), vocab] (row-major). The mask id's logit is excluded by the
// sampler.
struct CanvasBatch {
  std::int64_t rows = 0, cols = 0;
  std::span<const std::int32_t> ids;     // [rows * cols]
  std::span<const std::int32_t> length;  // [rows], real tokens
};
using LogitsFunction = std::function<void(
    const CanvasBatch& batch, std::span<const std::int32_t> wanted, std::span<float> logits)>;

// Called after each step with every request's current response ids (mask ids where still masked).
using StepObserver =
    std::function<void(std::int32_t step, const std::vector<std::vector<std::int32_t>>& responses)>;

// Decodes all requests together (batching.hpp makes the batches). The result of a request does not
// depend on the others in the batch, given the same logits. Throws ConfigError for impossible
// options, NumericError for logits that are not numbers.
std::vector<Response> sample(const std::vector<Request>& requests, std::int64_t vocab,
                             const SamplerOptions& options, const LogitsFunction& logits,
                             const StepObserver& observe = {});

}  // namespace demist::generate
