// One operation of a backend as a measurement sees it: its name, its size, what it must move and
// compute, and what it writes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.hpp"

namespace demist::bench {

// Memory that an operation writes: `rows` runs of `bytes`, `pitch` bytes apart.
struct Written {
  Written(const ConstTensorView& view)  // NOLINT(google-explicit-constructor)
      : data(view.data),
        rows(static_cast<std::size_t>(view.rows)),
        bytes(static_cast<std::size_t>(view.cols) * size_of(view.dtype)),
        pitch(static_cast<std::size_t>(view.ld) * size_of(view.dtype)) {}
  Written(const TensorView& view)  // NOLINT(google-explicit-constructor)
      : Written(ConstTensorView(view)) {}
  template <class T>
  Written(std::span<T> values)  // NOLINT(google-explicit-constructor)
      : data(values.data()), rows(1), bytes(values.size_bytes()), pitch(values.size_bytes()) {}
  Written(const void* to, std::size_t count) : data(to), rows(1), bytes(count), pitch(count) {}

  std::size_t extent() const { return rows == 0 || bytes == 0 ? 0 : (rows - 1) * pitch + bytes; }

  const void* data;
  std::size_t rows, bytes, pitch;
};

struct Operation {
  std::string name;   // of the Backend's function
  std::string shape;  // what tells calls of one name apart
  double bytes = 0;   // that it reads and writes in device memory; 0 with `flops` 0: unlimited
  double flops = 0;   // on tensor cores
  std::vector<Written> written = {};
};

class Observer {
 public:
  virtual ~Observer() = default;
  virtual void before(const Operation& operation) = 0;
  virtual void after(const Operation& operation) = 0;
};

}  // namespace demist::bench
