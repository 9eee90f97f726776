// SPDX-License-Identifier: Apache-2.0
#include "worker/generate/sampler.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>
#include <string>

#include "core/error.hpp"
#include "core/parallel_for.hpp"
#include "core/philox.hpp"
#include "core/tensor.hpp"
#include "data/tokenizer.hpp"
#include "worker/generate/noise.hpp"
#include "worker/generate/sum_exp.hpp"

namespace demist::generate {
namespace {

using data::SpecialIds;

constexpr double kPi = std::numbers::pi;
// Canvases of one step are shown to the model in groups whose logits fit here (256 MiB of fp32).
constexpr std::int64_t kMaxLogits = std::int64_t{1} << 26;
// Below this many logits, waking the threads costs more than they save.
constexpr std::int64_t kParallelWork = std::int64_t{1} << 14;

// A response position: what the algorithm of method 4.1 remembers of it.
struct Position {
  bool noisy = true;
  float score = 0;            // log-probability of the token when it was committed
  std::int32_t proposed = 0;  // c: the model's token for the canvas as it is now
  float proposed_score = 0;   // cs: its log-probability
};

struct Canvas {
  const Request* request = nullptr;
  std::vector<std::int32_t> ids;  // <s> prompt response </s>
  std::vector<Position> positions;
  bool stale = true;  // the proposals are not those of this canvas
  bool done = false;
  std::int32_t steps_run = 0;

  std::size_t first() const { return 1 + request->prompt.size(); }
  std::span<std::int32_t> response() { return std::span(ids).subspan(first(), positions.size()); }
};

void validate(const std::vector<Request>& requests, std::int64_t vocab,
              const SamplerOptions& options) {
  if (options.steps < 1)
    throw ConfigError("sampler: steps is " + std::to_string(options.steps) + "; give at least 1");
  if (options.mask_id < 0 || options.mask_id >= vocab)
    throw ConfigError("sampler: mask id " + std::to_string(options.mask_id) +
                      " is not below the model's vocabulary of " + std::to_string(vocab));
  // Written so that NaN is refused too.
  if (!(options.temperature >= 0) || !(options.stochastic >= 0) ||
      !std::isfinite(options.temperature + options.stochastic))
    throw ConfigError("sampler: temperature and stochastic must be numbers >= 0");
  for (const Request& request : requests)
    if (request.length < 0)
      throw ConfigError("sampler: request " + std::to_string(request.id) + " has length " +
                        std::to_string(request.length) + "; give at least 0");
}

Canvas make_canvas(const Request& request, std::int32_t mask_id) {
  Canvas canvas;
  canvas.request = &request;
  canvas.ids.reserve(static_cast<std::size_t>(canvas_length(request)));
  canvas.ids.push_back(SpecialIds::bos);
  canvas.ids.insert(canvas.ids.end(), request.prompt.begin(), request.prompt.end());
  canvas.ids.insert(canvas.ids.end(), static_cast<std::size_t>(request.length), mask_id);
  canvas.ids.push_back(SpecialIds::eos);
  canvas.positions.resize(static_cast<std::size_t>(request.length));
  canvas.done = request.length == 0;
  return canvas;
}

// The fraction that stays masked after step s of S. The two rational cosines between are exact, so
// that n * rate is an integer where it should be one.
double masked_rate(const SamplerOptions& options, std::int32_t step) {
  const std::int64_t s = step, total = options.steps;
  if (s == total) return 0;
  if (options.schedule == RateSchedule::linear)
    return static_cast<double>(total - s) / static_cast<double>(total);
  if (3 * s == 2 * total) return 0.5;
  return std::cos(kPi / 2 * static_cast<double>(s) / static_cast<double>(total));
}

// k = floor(n * rate), below n for every s >= 1 because rate < 1.
std::int64_t masked_count(const SamplerOptions& options, std::int32_t step, std::int64_t n) {
  if (options.schedule == RateSchedule::linear)
    return n * (options.steps - step) / options.steps;  // exact; n * (1 - s/S) rounds below
  const auto k =
      static_cast<std::int64_t>(std::floor(static_cast<double>(n) * masked_rate(options, step)));
  return std::min(k, n - 1);  // cos rounds to 1 for very many steps
}

// An index drawn from softmax(logits / temperature) by inverting its distribution function: first
// the block that u falls into, then the token inside it.
std::int32_t draw_token(std::span<const float> logits, float top, double temperature, double u) {
  constexpr std::size_t kBlock = 256;
  std::vector<double> blocks;
  for (std::size_t v = 0; v < logits.size(); v += kBlock)
    blocks.push_back(
        sum_exp(logits.subspan(v, std::min(kBlock, logits.size() - v)), top, temperature));
  double left = u * std::accumulate(blocks.begin(), blocks.end(), 0.0);
  std::size_t block = 0;
  while (block + 1 < blocks.size() && left >= blocks[block]) left -= blocks[block++];

  std::size_t token = block * kBlock;  // rounding may leave a little over: the last token takes it
  const std::size_t end = std::min(token + kBlock, logits.size());
  for (std::size_t v = token; v < end; ++v) {
    const double weight =
        std::exp((static_cast<double>(logits[v]) - static_cast<double>(top)) / temperature);
    if (weight == 0) continue;
    token = v;
    left -= weight;
    if (left < 0) break;
  }
  return static_cast<std::int32_t>(token);
}

// Fills position `i`'s proposal from its logits [vocab]; overwrites the mask id's logit.
void propose(Canvas& canvas, std::size_t i, std::span<float> logits, std::uint64_t token_key,
             const SamplerOptions& options) {
  logits[static_cast<std::size_t>(options.mask_id)] = -std::numeric_limits<float>::infinity();
  const auto best = std::max_element(logits.begin(), logits.end());
  const double sum = sum_exp(logits, *best);
  if (!std::isfinite(sum))
    throw NumericError("sampler: request " + std::to_string(canvas.request->id) +
                       ", response token " + std::to_string(i) +
                       ": the model's logits are not finite; check the checkpoint");
  std::int32_t token = static_cast<std::int32_t>(best - logits.begin());
  if (options.temperature > 0) {
    const Philox4 words = draw(token_key, canvas.request->id, static_cast<std::uint32_t>(i));
    token = draw_token(logits, *best, options.temperature, uniform(words));
  }
  const double logit = logits[static_cast<std::size_t>(token)];
  Position& position = canvas.positions[i];
  position.proposed = token;
  position.proposed_score = static_cast<float>(logit - static_cast<double>(*best) - std::log(sum));
}

// Shows a group of canvases to the model and fills their proposals.
class Proposer {
 public:
  Proposer(std::int64_t vocab, const SamplerOptions& options, const LogitsFunction& logits)
      : vocab_(vocab), options_(options), logits_(logits) {}

  void refresh(std::vector<Canvas>& canvases, std::int32_t step) {
    const std::uint64_t token_key =
        stream_key(options_.seed, kTokenStream, static_cast<std::uint64_t>(step));
    std::vector<Canvas*> group;
    std::int64_t wanted = 0;
    for (Canvas& canvas : canvases) {
      if (canvas.done || !canvas.stale) continue;
      if (!group.empty() && (wanted + canvas.request->length) * vocab_ > kMaxLogits) {
        run(group, token_key);
        group.clear();
        wanted = 0;
      }
      group.push_back(&canvas);
      wanted += canvas.request->length;
    }
    if (!group.empty()) run(group, token_key);
  }

 private:
  struct Place {
    Canvas* canvas;
    std::size_t position;
  };

  void run(const std::vector<Canvas*>& group, std::uint64_t token_key) {
    std::size_t cols = 0;
    for (const Canvas* canvas : group) cols = std::max(cols, canvas->ids.size());
    std::vector<std::int32_t> ids(group.size() * cols, SpecialIds::pad), length, wanted;
    std::vector<Place> places;
    for (std::size_t r = 0; r < group.size(); ++r) {
      Canvas& canvas = *group[r];
      std::copy(canvas.ids.begin(), canvas.ids.end(),
                ids.begin() + static_cast<std::ptrdiff_t>(r * cols));
      length.push_back(static_cast<std::int32_t>(canvas.ids.size()));
      for (std::size_t i = 0; i < canvas.positions.size(); ++i) {
        wanted.push_back(static_cast<std::int32_t>(r * cols + canvas.first() + i));
        places.push_back({&canvas, i});
      }
      canvas.stale = false;
    }
    const auto vocab = static_cast<std::size_t>(vocab_);
    if (buffer_.size() < wanted.size() * vocab) buffer_ = Buffer<float>(wanted.size() * vocab);
    const auto logits = buffer_.span().first(wanted.size() * vocab);
    const CanvasBatch batch{static_cast<std::int64_t>(group.size()),
                            static_cast<std::int64_t>(cols), ids, length};
    logits_(batch, wanted, logits);
    const auto propose_row = [&](std::int64_t row) {
      const auto& [canvas, i] = places[static_cast<std::size_t>(row)];
      propose(*canvas, i, logits.subspan(static_cast<std::size_t>(row) * vocab, vocab), token_key,
              options_);
    };
    const auto rows = static_cast<std::int64_t>(places.size());
    if (rows * vocab_ < kParallelWork)
      for (std::int64_t row = 0; row < rows; ++row) propose_row(row);
    else
      parallel_for(rows, propose_row);
  }

  std::int64_t vocab_;
  const SamplerOptions& options_;
  const LogitsFunction& logits_;
  Buffer<float> buffer_;
};

// The confidence by which positions are ranked: cs, with noise in the stochastic modes.
std::vector<double> ranking_keys(const Canvas& canvas, std::int32_t step,
                                 const SamplerOptions& options) {
  std::vector<double> keys;
  const double scale = options.stochastic * masked_rate(options, step);
  const std::uint64_t route_key =
      stream_key(options.seed, kRouteStream, static_cast<std::uint64_t>(step));
  for (const Position& position : canvas.positions) {
    double key = static_cast<double>(position.proposed_score);
    if (scale > 0)
      key += scale *
             gumbel(draw(route_key, canvas.request->id, static_cast<std::uint32_t>(keys.size())));
    keys.push_back(key);
  }
  return keys;
}

// Step `step` on one canvas with fresh proposals: who is masked, who is filled, who stays.
void route(Canvas& canvas, std::int32_t step, const SamplerOptions& options) {
  const auto n = static_cast<std::int64_t>(canvas.positions.size());
  const std::int64_t k = masked_count(options, step, n);
  const std::vector<double> keys = ranking_keys(canvas, step, options);
  std::vector<double> sorted = keys;
  const auto threshold = sorted.begin() + k;  // the (k+1)-th smallest
  std::nth_element(sorted.begin(), threshold, sorted.end());

  const std::span<std::int32_t> response = canvas.response();
  for (std::size_t i = 0; i < keys.size(); ++i) {
    Position& position = canvas.positions[i];
    const bool low = keys[i] < *threshold;  // strict: ties at the threshold stay unmasked
    const bool repeats_itself_with_less =
        position.proposed == response[i] && position.proposed_score < position.score;
    const bool rejected = low && (options.routing == Routing::uncond || repeats_itself_with_less);
    const std::int32_t before = response[i];
    if (position.noisy ? low : rejected) {
      response[i] = options.mask_id;
      position.score = -std::numeric_limits<float>::infinity();
    } else if (position.noisy) {
      response[i] = position.proposed;
      position.score = position.proposed_score;
    }
    position.noisy = (position.noisy || rejected) && low;
    canvas.stale = canvas.stale || response[i] != before;
  }
  canvas.steps_run = step;
  // k never grows, and with k = 0 everything is filled and nothing can be ranked below.
  if (options.stop_when_done) canvas.done = k == 0;
}

Response make_response(Canvas& canvas) {
  Response out;
  const auto ids = canvas.response();
  out.ids.assign(ids.begin(), ids.end());
  double ordinary = 0, all = 0;
  std::int64_t count = 0;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const float score = canvas.positions[i].score;
    out.score.push_back(score);
    all += static_cast<double>(score);
    const bool special =
        ids[i] == SpecialIds::bos || ids[i] == SpecialIds::pad || ids[i] == SpecialIds::eos;
    if (special) continue;
    ordinary += static_cast<double>(score);
    ++count;
  }
  if (count > 0)
    out.mean_log_prob = ordinary / static_cast<double>(count);
  else if (!ids.empty())
    out.mean_log_prob = all / static_cast<double>(ids.size());
  out.steps_run = canvas.steps_run;
  return out;
}

void report(const StepObserver& observe, std::int32_t step, std::vector<Canvas>& canvases) {
  if (!observe) return;
  std::vector<std::vector<std::int32_t>> responses;
  for (Canvas& canvas : canvases)
    responses.emplace_back(canvas.response().begin(), canvas.response().end());
  observe(step, responses);
}

}  // namespace

std::vector<Response> sample(const std::vector<Request>& requests, std::int64_t vocab,
                             const SamplerOptions& options, const LogitsFunction& logits,
                             const StepObserver& observe) {
  validate(requests, vocab, options);
  std::vector<Canvas> canvases;
  for (const Request& request : requests) canvases.push_back(make_canvas(request, options.mask_id));
  Proposer proposer(vocab, options, logits);
  // An argmax proposal depends on the canvas alone: an unchanged canvas needs no forward pass.
  const bool every_step = options.temperature > 0 || !options.stop_when_done;
  const auto done = [](const Canvas& canvas) { return canvas.done; };

  for (std::int32_t step = 1; step <= options.steps; ++step) {
    if (std::all_of(canvases.begin(), canvases.end(), done)) break;
    for (Canvas& canvas : canvases) canvas.stale = canvas.stale || every_step;
    proposer.refresh(canvases, step);
    for (Canvas& canvas : canvases)
      if (!canvas.done) route(canvas, step, options);
    report(observe, step, canvases);
  }

  std::vector<Response> responses;
  for (Canvas& canvas : canvases) responses.push_back(make_response(canvas));
  return responses;
}

}  // namespace demist::generate
