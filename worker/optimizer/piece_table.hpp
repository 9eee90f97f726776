// The pieces that fixed-point operations work through, in host memory and in the backend's.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/backend.hpp"

namespace demist {

class PieceTable {
 public:
  // Elements [begin, begin + count) of the buffers belong to `tensor`.
  void add(std::int64_t begin, std::int64_t count, std::size_t tensor) {
    for (std::int64_t at = 0; at < count; at += ScaledPiece::kLongest)
      pieces_.push_back({begin + at,
                         static_cast<std::int32_t>(std::min(count - at, ScaledPiece::kLongest)),
                         static_cast<std::int32_t>(tensor)});
    aligned_ = aligned_ && begin % 8 == 0;
  }
  // After the last add().
  void upload(Backend& backend) {
    device_ = Buffer<ScaledPiece>(pieces_.size(), backend.memory());
    backend.upload(device_.data(), pieces_.data(), device_.bytes());
  }
  std::size_t size() const { return pieces_.size(); }
  std::size_t bytes() const { return device_.bytes(); }
  const ScaledPiece& operator[](std::size_t i) const { return pieces_[i]; }
  // Pieces [first, last) for an operation; `scale` in the backend's memory.
  ScaledPieces range(std::size_t first, std::size_t last, std::span<const double> scale) const {
    return {std::span<const ScaledPiece>(device_.span()).subspan(first, last - first), scale,
            aligned_};
  }
  ScaledPieces all(std::span<const double> scale) const { return range(0, size(), scale); }

 private:
  std::vector<ScaledPiece> pieces_;
  Buffer<ScaledPiece> device_;
  bool aligned_ = true;
};

}  // namespace demist
