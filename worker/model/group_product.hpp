// A product whose terms lie on several ranks, with work that needs no sum of them in the meantime.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "worker/model/model.hpp"

namespace demist {

// out = x W^T of a column-split W (forward), or dy W of a row-split one (backward): each rank holds
// part of the reduced dimension, so the products are summed over the tensor group, in fp32, and
// rounded to out's type by the rank that adds them. `meanwhile` queues operations that neither
// touch `out` nor write what the product reads: where the group has a network of its own, they run
// under the sum.
template <class Meanwhile>
void Model::group_product(TensorView out, ConstTensorView x, ConstTensorView weight,
                          Transpose transpose, Meanwhile&& meanwhile) {
  if (tensor_.size() == 1) {
    backend_.gemm(out, x, weight, transpose);
    meanwhile();
    return;
  }
  const TensorView part = partial_.top(x.rows);
  backend_.gemm(part, x, weight, transpose);
  tensor_.detach();
  tensor_.all_reduce_sum(out, {part.as<float>(), static_cast<std::size_t>(part.size())});
  meanwhile();
  tensor_.join();
}

}  // namespace demist
