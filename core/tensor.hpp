// Element types and the two ways to hold numbers: a view that borrows and a buffer that owns.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "core/error.hpp"

namespace demist {

enum class DType : std::uint8_t { f32, bf16 };

constexpr std::size_t size_of(DType dtype) { return dtype == DType::f32 ? 4 : 2; }
constexpr const char* name_of(DType dtype) { return dtype == DType::f32 ? "fp32" : "bf16"; }

// bfloat16: the upper half of a binary32. Conversion from float rounds to nearest, ties to even.
struct bf16 {
  std::uint16_t bits = 0;
  bf16() = default;
  explicit bf16(float value) {
    const auto u = std::bit_cast<std::uint32_t>(value);
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    bits = static_cast<std::uint16_t>(nan ? (u >> 16) | 0x40u
                                          : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  explicit operator float() const {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
};
static_assert(sizeof(bf16) == 2);

template <class T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
  return DType::f32;
}
template <>
constexpr DType dtype_of<bf16>() {
  return DType::bf16;
}

// A row-major matrix that somebody else owns: element (r, c) is at data + r * ld + c.
// A vector is a matrix of one row. T is void or const void; typed access checks the dtype.
template <class Void>
struct BasicView {
  Void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t ld = 0;  // elements from one row to the next, >= cols

  template <class T>
  auto as() const {
    using Element = std::conditional_t<std::is_const_v<Void>, const T, T>;
    if (dtype != dtype_of<T>()) throw InternalError("tensor accessed as the wrong element type");
    return static_cast<Element*>(data);
  }
  std::int64_t size() const { return rows * cols; }
  explicit operator bool() const { return data != nullptr; }

  // Rows [begin, begin + count).
  BasicView row_slice(std::int64_t begin, std::int64_t count) const {
    return {offset(begin * ld), dtype, count, cols, ld};
  }
  // Columns [begin, begin + count); the leading dimension stays.
  BasicView col_slice(std::int64_t begin, std::int64_t count) const {
    return {offset(begin), dtype, rows, count, ld};
  }
  operator BasicView<const void>() const requires(!std::is_const_v<Void>) {
    return {data, dtype, rows, cols, ld};
  }

 private:
  Void* offset(std::int64_t elements) const {
    using Byte = std::conditional_t<std::is_const_v<Void>, const std::byte, std::byte>;
    return static_cast<Byte*>(data) + elements * static_cast<std::int64_t>(size_of(dtype));
  }
};
using TensorView = BasicView<void>;
using ConstTensorView = BasicView<const void>;

template <class T>
auto matrix(T* data, std::int64_t rows, std::int64_t cols) {
  using Void = std::conditional_t<std::is_const_v<T>, const void, void>;
  return BasicView<Void>{data, dtype_of<std::remove_const_t<T>>(), rows, cols, cols};
}
template <class T>
auto vector_view(std::span<T> values) {
  return matrix(values.data(), 1, static_cast<std::int64_t>(values.size()));
}

// Where buffers live: the host's memory, or a device's.
class Memory {
 public:
  virtual ~Memory() = default;
  // At least 64-byte aligned, uninitialized; throws when there is not enough.
  virtual void* allocate(std::size_t bytes) = 0;
  virtual void release(void* block) noexcept = 0;
  virtual std::size_t available() const = 0;  // bytes that allocate() could still give
  static Memory& host();
};

// Owning, uninitialized memory for `size` elements of a trivial T. Elements are read and written
// through [] in host memory only.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t size, Memory& memory = Memory::host())
      : data_(nullptr, Release{&memory}), size_(size) {
    if (size > 0) data_.reset(static_cast<T*>(memory.allocate(size * sizeof(T))));
  }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  std::size_t size() const { return size_; }
  std::size_t bytes() const { return size_ * sizeof(T); }
  std::span<T> span() { return {data(), size_}; }
  std::span<const T> span() const { return {data(), size_}; }
  T& operator[](std::size_t i) { return data_.get()[i]; }
  const T& operator[](std::size_t i) const { return data_.get()[i]; }

 private:
  struct Release {
    Memory* memory = nullptr;
    void operator()(T* p) const { memory->release(p); }
  };
  std::unique_ptr<T[], Release> data_;
  std::size_t size_ = 0;
};

// Owning row-major matrix of a dtype chosen at run time.
class Tensor {
 public:
  Tensor() = default;
  Tensor(DType dtype, std::int64_t rows, std::int64_t cols, Memory& memory = Memory::host())
      : bytes_(static_cast<std::size_t>(rows * cols) * size_of(dtype), memory),
        dtype_(dtype),
        rows_(rows),
        cols_(cols) {}
  TensorView view() { return {bytes_.data(), dtype_, rows_, cols_, cols_}; }
  ConstTensorView view() const { return {bytes_.data(), dtype_, rows_, cols_, cols_}; }
  // The first `rows` rows: buffers are sized for the largest micro-batch.
  TensorView top(std::int64_t rows) { return view().row_slice(0, rows); }
  std::size_t bytes() const { return bytes_.size(); }

 private:
  Buffer<std::byte> bytes_;
  DType dtype_ = DType::f32;
  std::int64_t rows_ = 0;
  std::int64_t cols_ = 0;
};

}  // namespace demist
