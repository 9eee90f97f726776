// A trained model and its tokenizer, ready to answer prompts.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/tokenizer.hpp"
#include "worker/generate/sampler.hpp"
#include "worker/trainer.hpp"

namespace demist {

// The tokenizer of a checkpoint: `given`, or tokenizer.model in the run folder around it. Throws
// ConfigError naming where it looked.
std::filesystem::path find_tokenizer(const std::filesystem::path& checkpoint,
                                     const std::filesystem::path& given);

class Generator {
 public:
  // model: a checkpoint or a folder of checkpoints. Throws CheckpointError when the tokenizer is
  // not the one that the model was trained with.
  Generator(const std::filesystem::path& model, const std::filesystem::path& tokenizer,
            DType compute, std::unique_ptr<Backend> backend);

  const data::Tokenizer& tokenizer() const { return tokenizer_; }
  const std::filesystem::path& checkpoint() const { return checkpoint_; }
  std::int32_t longest_response(std::size_t prompt_tokens) const;

  // Decodes all requests together; options.mask_id is filled in.
  std::vector<generate::Response> decode(const std::vector<generate::Request>& requests,
                                         generate::SamplerOptions options,
                                         const generate::StepObserver& observe = {});

 private:
  Generator(const checkpoint::Checkpoint& checkpoint, const std::filesystem::path& tokenizer,
            DType compute, std::unique_ptr<Backend> backend);
  std::filesystem::path checkpoint_;
  data::Tokenizer tokenizer_;
  InferenceModel model_;
};

}  // namespace demist
