// SPDX-License-Identifier: Apache-2.0
#include "worker/model/device_shapes.hpp"

#include <gtest/gtest.h>

#include <string>

namespace demist {
namespace {

std::string problem(std::int64_t head_dim, std::int64_t ffn, DType compute, int tensor_size) {
  ModelConfig model;
  model.heads = 4;
  model.hidden = 4 * head_dim;
  model.ffn = ffn;
  return device_shape_problem(model, compute, tensor_size);
}

const std::string kRemedy =
    ", and on GPUs must be a multiple of 8; change one of them, or use the CPU (parallel.device: "
    "CPU, or CUDA_VISIBLE_DEVICES= where there is no recipe)";

TEST(DeviceShapes, OfWholeSixteenBytesPass) {
  EXPECT_EQ(problem(8, 64, DType::bf16, 4), "");
  EXPECT_EQ(problem(80, 24, DType::bf16, 1), "");
  EXPECT_EQ(problem(4, 16, DType::f32, 4), "");
}

TEST(DeviceShapes, OfOtherSizesAreNamed) {
  EXPECT_EQ(problem(12, 64, DType::bf16, 1), "model.hidden / model.heads is 12" + kRemedy);
  EXPECT_EQ(problem(12, 64, DType::f32, 1), "");
  EXPECT_EQ(problem(16, 48, DType::bf16, 4), "model.ffn / parallel.tensor is 12" + kRemedy);
  EXPECT_EQ(problem(16, 50, DType::f32, 1).substr(0, 37), "model.ffn / parallel.tensor is 50, an");
}

}  // namespace
}  // namespace demist
