// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/column_sum.hpp"
#include "kernels/cuda/row_kernels.hpp"

namespace demist::cuda {
namespace {

// s bytes an element at size s: 32,768 rows of 2,304 in bf16 are 151 MB, 45 us at 3.35 TB/s.
template <class T, Access kAccess>
struct StoredRows {
  Rows<const T> x;
  std::int64_t cols;
  __device__ Chunk load(std::int64_t r, std::int64_t column) const {
    return load_chunk<kAccess>(x[r], column, cols);
  }
  __device__ Chunk finish(std::int64_t, std::int64_t, const Chunk& loaded) const { return loaded; }
};

}  // namespace

std::size_t column_sum_workspace(std::int64_t rows, std::int64_t cols) {
  return column_sum_bytes(rows, cols);
}

void column_sum(const Launch& launch, std::span<float> out, ConstTensorView x) {
  with_element(x.dtype, [&]<class T>() {
    with_access<Access::tail>(all_aligned(x), [&]<Access kAccess>() {
      sum_columns(launch, out, StoredRows<T, kAccess>{rows_of<T>(x), x.cols}, x.rows);
    });
  });
}

}  // namespace demist::cuda
