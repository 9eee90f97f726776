// Many requests of many lengths, decoded in batches that waste little padding.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "worker/generate/sampler.hpp"

namespace demist::generate {

// Indices of requests, in batches of similar canvas lengths, longest first, with
// rows * cols <= max_tokens. A canvas longer than max_tokens is a batch of its own.
std::vector<std::vector<std::size_t>> make_batches(const std::vector<Request>& requests,
                                                   std::int64_t max_tokens);

// Called after each batch with the number of requests finished so far.
using BatchObserver = std::function<void(std::size_t finished)>;

// sample() over make_batches(); responses come in the order of the requests.
std::vector<Response> sample_all(const std::vector<Request>& requests, std::int64_t vocab,
                                 const SamplerOptions& options, std::int64_t max_tokens,
                                 const LogitsFunction& logits, const BatchObserver& observe = {});

}  // namespace demist::generate
