// SPDX-License-Identifier: Apache-2.0
#include "worker/generate/batching.hpp"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>

#include "core/error.hpp"

namespace demist::generate {

std::vector<std::vector<std::size_t>> make_batches(const std::vector<Request>& requests,
                                                   std::int64_t max_tokens) {
  if (max_tokens < 1)
    throw ConfigError("generate: the token budget is " + std::to_string(max_tokens) +
                      "; give at least 1");
  std::vector<std::size_t> order(requests.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return canvas_length(requests[a]) > canvas_length(requests[b]);
  });
  std::vector<std::vector<std::size_t>> batches;
  std::int64_t cols = 0;  // of the open batch: its first canvas is its longest
  for (const std::size_t index : order) {
    const bool fits = !batches.empty() &&
                      (static_cast<std::int64_t>(batches.back().size()) + 1) * cols <= max_tokens;
    if (!fits) {
      batches.emplace_back();
      cols = canvas_length(requests[index]);
    }
    batches.back().push_back(index);
  }
  return batches;
}

std::vector<Response> sample_all(const std::vector<Request>& requests, std::int64_t vocab,
                                 const SamplerOptions& options, std::int64_t max_tokens,
                                 const LogitsFunction& logits, const BatchObserver& observe) {
  std::vector<Response> responses(requests.size());
  std::size_t finished = 0;
  for (const auto& indices : make_batches(requests, max_tokens)) {
    std::vector<Request> batch;
    for (const std::size_t index : indices) batch.push_back(requests[index]);
    auto decoded = sample(batch, vocab, options, logits);
    for (std::size_t i = 0; i < indices.size(); ++i) responses[indices[i]] = std::move(decoded[i]);
    finished += indices.size();
    if (observe) observe(finished);
  }
  return responses;
}

}  // namespace demist::generate
