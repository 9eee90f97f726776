// The coupled diffusion loss of method section 3.3 in slow double precision, for tests.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "core/error.hpp"
#include "data/source.hpp"

namespace demist::reference {

// One noised copy of a sequence: masked[i] for every position, at time step t in 1..T.
struct NoisedCopy {
  std::int32_t t = 1;
  std::vector<bool> masked;
};

// One sequence of the batch. Coupled training has two copies, t1 >= t2; the plain mode has one.
struct RdmSequence {
  std::vector<std::int32_t> ids;  // x_0, without padding
  std::vector<bool> response;     // m: noisable, the final </s> included
  std::vector<NoisedCopy> copies;
};

struct RdmSettings {
  std::int32_t steps = 50;  // T
  data::TimeWeight weight = data::TimeWeight::linear;
  double label_smoothing = 0;
  std::int32_t vocab = 0;
};

// log p(token at `position` | copy `copy` of sequence `sequence`).
using LogProbability = std::function<double(std::size_t sequence, std::size_t copy,
                                            std::size_t position, std::int32_t token)>;

// lambda_{t-1}
inline double time_weight(data::TimeWeight weight, std::int32_t t, std::int32_t steps) {
  switch (weight) {
    case data::TimeWeight::linear:
      return 1.0 - (t - 1.0) / steps;
    case data::TimeWeight::reciprocal:
      return 1.0 / t;
    case data::TimeWeight::constant:
      return 1.0;
  }
  throw InternalError("unknown time weight");
}

// Items 4 and 5: the mean over all copies of
//   T / N * sum over masked i of (1 - eps) * lambda_{t-1} * CE_i + eps * mean_v(-log p_v),
// with N the number of response tokens of the sequence, masked or not.
inline double rdm_loss(const std::vector<RdmSequence>& batch, const RdmSettings& settings,
                       const LogProbability& log_p) {
  double sum = 0, copies = 0;
  for (std::size_t b = 0; b < batch.size(); ++b) {
    const RdmSequence& sequence = batch[b];
    double n = 0;
    for (const bool m : sequence.response) n += m ? 1 : 0;
    for (std::size_t c = 0; c < sequence.copies.size(); ++c, ++copies) {
      const NoisedCopy& copy = sequence.copies[c];
      const double lambda = reference::time_weight(settings.weight, copy.t, settings.steps);
      for (std::size_t i = 0; i < sequence.ids.size(); ++i) {
        if (!copy.masked[i]) continue;
        ensure(sequence.response[i], "only response tokens are noised");
        double uniform = 0;
        for (std::int32_t v = 0; v < settings.vocab; ++v)
          uniform += -log_p(b, c, i, v) / settings.vocab;
        const double cross_entropy = -log_p(b, c, i, sequence.ids[i]);
        const double eps = settings.label_smoothing;
        sum += settings.steps / n * ((1 - eps) * lambda * cross_entropy + eps * uniform);
      }
    }
  }
  return sum / copies;
}

}  // namespace demist::reference
