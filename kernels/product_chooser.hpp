// What a device leaves to be chosen by measuring: the algorithms of its matrix products.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace demist {

// All that an algorithm means, and the bits of its results, depend on.
struct DeviceIdentity {
  std::string gpu;                   // "NVIDIA H200"
  std::int64_t multiprocessors = 0;  // a part of a GPU has fewer
  std::string library;               // "cuBLASLt 130100"
  bool operator==(const DeviceIdentity&) const = default;
};
std::string describe(const DeviceIdentity& device);

// An algorithm other than the library's first choice. Both are texts that only the device reads.
struct ProductPlan {
  std::string product;    // types, sizes and strides
  std::string algorithm;  // means something to this library on this GPU only
  bool operator==(const ProductPlan&) const = default;
};

// Algorithms change bits, so ranks that share work must all adopt the same plans.
class ProductChooser {
 public:
  virtual ~ProductChooser() = default;
  virtual DeviceIdentity identity() const = 0;
  // Until end_measuring(), the library's first `candidates` choices for each product are timed
  // where it first comes up, on its own operands. What is added to comes out wrong there.
  virtual void begin_measuring(int candidates) = 0;
  // Those that another algorithm than the first made clearly faster, in a fixed order. Nothing is
  // adopted by that.
  virtual std::vector<ProductPlan> end_measuring() = 0;
  // From now on these products, and all others with the library's first choice. Throws DataError
  // when an algorithm is none.
  virtual void adopt(std::span<const ProductPlan> plans) = 0;
};

}  // namespace demist
