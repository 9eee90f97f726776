// SPDX-License-Identifier: Apache-2.0
#include "core/error.hpp"
#include "kernels/cuda/attention_cudnn.hpp"

namespace demist::cuda {

std::size_t cudnn_version() { return 0; }

std::unique_ptr<AttentionEngine> make_cudnn_attention(const Stream&, Memory&) {
  throw EnvironmentError(
      "this build has no cuDNN attention; configure with -DDEMIST_CUDNN_FRONTEND=DIR, the folder "
      "that holds cudnn_frontend.h, or set parallel.attention: OWN");
}

}  // namespace demist::cuda
