// The device primitives against plain expectations. Nothing here knows the emulator: the same test
// runs on a device.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "tests/emulation/device_buffer.hpp"
#include "tests/emulation/primitive_kernels.hpp"

namespace demist::cuda::test {
namespace {

// The lane whose value a lane gets, from the CUDA C++ Programming Guide, "Warp Shuffle Functions".
int shuffle_source(int op, int lane) {
  switch (op) {
    case kIndex5:
      return 5;
    case kXor3:
      return lane ^ 3;
    case kDown4:
      return lane + 4 < 32 ? lane + 4 : lane;
    case kUp2:
      return lane >= 2 ? lane - 2 : lane;
    case kWidth8Xor4:
      return lane ^ 4;
    default:
      return lane / 8 * 8 + 1;  // kWidth8Index9: 9 modulo 8, in the lane's own 8
  }
}

template <class T>
void expect_shuffles(void (*shuffle)(T*, const T*, cudaStream_t)) {
  std::vector<T> in(32);
  for (int lane = 0; lane < 32; ++lane) in[lane] = static_cast<T>(1000 + lane * lane);
  const DeviceBuffer<T> device_in(in), device_out(kShuffleOps * 32);
  shuffle(device_out.data(), device_in.data(), nullptr);
  const std::vector<T> out = device_out.host();
  for (int op = 0; op < kShuffleOps; ++op)
    for (int lane = 0; lane < 32; ++lane)
      EXPECT_EQ(out[op * 32 + lane], in[shuffle_source(op, lane)]) << op << " lane " << lane;
}

TEST(Primitives, ShufflesMoveValuesBetweenLanes) {
  expect_shuffles<int>(shuffle_int);
  expect_shuffles<std::int64_t>(shuffle_int64);
  expect_shuffles<float>(shuffle_float);
  expect_shuffles<double>(shuffle_double);
}

}  // namespace
}  // namespace demist::cuda::test
