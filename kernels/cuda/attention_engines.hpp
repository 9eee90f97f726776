// The attention engines of one backend, and the one in use.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "kernels/attention_chooser.hpp"
#include "kernels/backend.hpp"
#include "kernels/cuda/attention_engine.hpp"
#include "kernels/cuda/runtime.hpp"

namespace demist::cuda {

// Starts with AttentionPath::own.
class AttentionEngines final : public AttentionChooser {
 public:
  // All of which must outlive it.
  AttentionEngines(Backend& backend, const Stream& stream, BatchedGemm& gemm);
  ~AttentionEngines() override;

  AttentionEngine& current() const { return *current_; }
  std::size_t cudnn_version() const override { return cudnn_version_; }
  std::string check(AttentionPath path, const AttentionShape& shape) override;
  void use(AttentionPath path) override { current_ = &engine(path); }

  // For tests: as if cuDNN computed so.
  void pretend_cudnn(std::unique_ptr<AttentionEngine> engine, std::size_t version);

 private:
  AttentionEngine& engine(AttentionPath path);

  Backend& backend_;
  const Stream& stream_;
  std::unique_ptr<AttentionEngine> unfused_, own_;
  std::unique_ptr<AttentionEngine> cudnn_;  // made when it is first wanted
  std::size_t cudnn_version_;
  AttentionEngine* current_;
};

}  // namespace demist::cuda
