// Operands of a kernel twice, on the host for the CPU backend and on the device.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "kernels/cuda/row_kernels.hpp"
#include "tests/cuda/tolerance.hpp"
#include "tests/emulation/device_buffer.hpp"
#ifdef DEMIST_EMULATED
#include "tests/emulation/emulator.hpp"
#endif
#include "tests/support/kernel_fixture.hpp"

namespace demist::cuda::test {

using demist::test::Matrix;
using demist::test::Operand;
using demist::test::random_matrix;
using demist::test::relative_error;

// A matrix. Rows are `gap` elements longer than needed, and the gaps are watched: 0 keeps whole
// chunks aligned, 3 breaks that.
class Pair {
 public:
  Pair(const Matrix& matrix, DType dtype, std::int64_t gap)
      : host_(matrix, dtype, gap),
        rows_(matrix.rows),
        cols_(matrix.cols),
        ld_(matrix.cols + gap),
        dtype_(dtype),
        device_(std::max<std::size_t>(bytes(), 1)) {
    const auto* from = static_cast<const std::byte*>(host_.view().data);
    if (bytes() > 0) device_.set({from, from + bytes()});
  }
  // An output: NaN everywhere.
  Pair(std::int64_t rows, std::int64_t cols, DType dtype, std::int64_t gap)
      : Pair(nan_matrix(rows, cols), dtype, gap) {}

  TensorView host() { return host_.view(); }
  TensorView device() { return {device_.data(), dtype_, rows_, cols_, ld_}; }
  // Of a row vector in fp32.
  std::span<float> host_span() { return host_.span(); }
  std::span<float> device_span() {
    return {reinterpret_cast<float*>(device_.data()), static_cast<std::size_t>(cols_)};
  }

  // The device's values; NaN everywhere when something was written between the rows.
  std::vector<double> values() const {
    Operand copy(nan_matrix(rows_, cols_), dtype_, ld_ - cols_);
    const std::vector<std::byte> all = device_.host();
    if (bytes() > 0) std::memcpy(copy.view().data, all.data(), bytes());
    if (!copy.gaps_are_intact()) return nan_matrix(rows_, cols_).values;
    return copy.values();
  }
  // Of the device's values against the CPU's.
  double error() { return relative_error(values(), host_.values()); }

  // The same rows as elements of another type, from the start of each row: fp32 gives way to bf16.
  TensorView host_as(DType other) { return as(host(), other); }
  TensorView device_as(DType other) { return as(device(), other); }
  double error_as(DType other) {
    std::vector<std::byte> all = device_.host();
    TensorView copy = device_as(other);
    copy.data = all.data();
    return relative_error(elements(copy), elements(host_as(other)));
  }

 private:
  static Matrix nan_matrix(std::int64_t rows, std::int64_t cols) {
    Matrix matrix(rows, cols);
    std::ranges::fill(matrix.values, std::nan(""));
    return matrix;
  }
  static TensorView as(TensorView view, DType other) {
    const auto ratio = static_cast<std::int64_t>(size_of(view.dtype) / size_of(other));
    return {view.data, other, view.rows, view.cols, view.ld * ratio};
  }
  static std::vector<double> elements(const TensorView& view) {
    std::vector<double> result;
    for (std::int64_t r = 0; r < view.rows; ++r)
      for (std::int64_t i = r * view.ld; i < r * view.ld + view.cols; ++i)
        result.push_back(static_cast<double>(view.dtype == DType::f32
                                                 ? view.as<float>()[i]
                                                 : static_cast<float>(view.as<demist::bf16>()[i])));
    return result;
  }
  std::size_t bytes() const { return static_cast<std::size_t>(rows_ * ld_) * size_of(dtype_); }

  Operand host_;
  std::int64_t rows_, cols_, ld_;
  DType dtype_;
  DeviceBuffer<std::byte> device_;
};

// A list of numbers on the device; it may be empty.
template <class T>
class DeviceList {
 public:
  explicit DeviceList(std::vector<T> values)
      : size_(values.size()), buffer_(std::max<std::size_t>(size_, 1)) {
    values.resize(buffer_.size());
    buffer_.set(values);
  }
  std::span<T> span() const { return buffer_.span().first(size_); }
  operator std::span<T>() const { return span(); }        // NOLINT(google-explicit-constructor)
  operator std::span<const T>() const { return span(); }  // NOLINT(google-explicit-constructor)
  std::vector<T> host() const {
    std::vector<T> values = buffer_.host();
    values.resize(size_);
    return values;
  }

 private:
  std::size_t size_;
  DeviceBuffer<T> buffer_;
};

// Exactly the workspace that an operation asked for.
class Workspace {
 public:
  explicit Workspace(std::size_t bytes)
      : bytes_(bytes),
        buffer_(DeviceBuffer<std::byte>::unwritten(std::max<std::size_t>(bytes, 1))) {}
  Launch launch() const { return {nullptr, buffer_.data(), bytes_}; }

 private:
  std::size_t bytes_;
  DeviceBuffer<std::byte> buffer_;
};

// `compute` leaves the same values whatever the order of the device's threads.
inline void expect_same_bits(const std::function<std::vector<double>()>& compute) {
  const std::vector<double> first = compute();
#ifdef DEMIST_EMULATED
  const std::uint64_t before = emu::options().seed;
  for (const std::uint64_t seed : {0, 17, 4711}) {
    emu::options().seed = seed;
    EXPECT_EQ(compute(), first) << "seed " << seed;
  }
  emu::options().seed = before;
#else
  EXPECT_EQ(compute(), first);
#endif
}

// Kernels in both storage types, beside the CPU's backend.
class RowKernelTest : public testing::TestWithParam<DType> {
 protected:
  DType dtype() const { return GetParam(); }
  Backend& cpu() { return *cpu_; }
  const Launch launch_{};

 private:
  std::unique_ptr<Backend> cpu_ = make_cpu_backend();
};
inline std::string dtype_name(const testing::TestParamInfo<DType>& info) {
  return name_of(info.param);
}
inline auto both_types() { return testing::Values(DType::f32, DType::bf16); }

struct Shape {
  std::int64_t rows, cols;
};
// One row, one column, no row, whole and broken chunks, one and several warps a row.
inline constexpr Shape kShapes[] = {{1, 8},   {1, 1},   {40, 1},   {0, 64},   {5, 7},   {3, 64},
                                    {37, 80}, {9, 384}, {18, 768}, {2, 1024}, {2, 2560}};
inline constexpr std::int64_t kGaps[] = {0, 3};

}  // namespace demist::cuda::test
