// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/generation.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "kernels/backend.hpp"
#include "worker/checkpoint/checkpoint.hpp"

namespace demist {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kCanvasSpecials = 2;  // <s> and </s>

}  // namespace

fs::path find_tokenizer(const fs::path& checkpoint, const fs::path& given) {
  if (!given.empty()) return given;
  std::string tried;
  // <run>/<stage>/checkpoints/step-00000100: the run folder is three levels up.
  fs::path folder = fs::absolute(checkpoint).lexically_normal();
  for (int level = 0; level < 4 && folder.has_relative_path(); ++level) {
    const fs::path candidate = folder / "tokenizer.model";
    if (fs::is_regular_file(candidate)) return candidate;
    tried += (tried.empty() ? "" : ", ") + folder.string();
    folder = folder.parent_path();
  }
  throw ConfigError("found no tokenizer.model in " + tried + "; name it with --tokenizer");
}

Generator::Generator(const fs::path& model, const fs::path& tokenizer, DType compute,
                     std::unique_ptr<Backend> backend)
    : Generator(checkpoint::open_any(model), tokenizer, compute, std::move(backend)) {}

Generator::Generator(const checkpoint::Checkpoint& checkpoint, const fs::path& tokenizer,
                     DType compute, std::unique_ptr<Backend> backend)
    : checkpoint_(checkpoint.directory()),
      tokenizer_(find_tokenizer(checkpoint_, tokenizer)),
      model_(checkpoint, compute, std::move(backend)) {
  if (checkpoint.meta().tokenizer_hash != tokenizer_.hash())
    throw CheckpointError(checkpoint_.string() +
                          " was trained with another tokenizer; name the right one with "
                          "--tokenizer");
}

std::int32_t Generator::longest_response(std::size_t prompt_tokens) const {
  // Positions are numbered from 2 (XLM-R), hence two rows are never a token's.
  const auto room =
      model_.config().positions - 2 - static_cast<std::int64_t>(prompt_tokens + kCanvasSpecials);
  return static_cast<std::int32_t>(std::max<std::int64_t>(0, room));
}

std::vector<generate::Response> Generator::decode(const std::vector<generate::Request>& requests,
                                                  generate::SamplerOptions options,
                                                  const generate::StepObserver& observe) {
  options.mask_id = tokenizer_.mask_id();
  const auto logits = [this](const generate::CanvasBatch& batch,
                             std::span<const std::int32_t> wanted, std::span<float> out) {
    model_.logits(batch.rows, batch.cols, batch.ids, batch.length, wanted, out);
  };
  return generate::sample(requests, model_.config().vocab, options, logits, observe);
}

}  // namespace demist
