// Which algorithm a product has: the library's first choice, or one that was measured and adopted.
// For the emulated device, which tells what ran and can make any algorithm look the fastest.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <numeric>

#include "core/error.hpp"
#include "kernels/cuda/device_memory.hpp"
#include "kernels/cuda/gemm.hpp"
#include "tests/emulation/cublaslt_problem.hpp"
#include "tests/emulation/device_buffer.hpp"
#include "tests/emulation/emulator.hpp"

namespace demist::cuda::test {
namespace {

constexpr int kCandidates = 8;

class GemmMeasure : public testing::Test {
 protected:
  void TearDown() override { emu::options().fastest_algorithm = 0; }

  static GemmShape shape(std::int64_t m, std::int64_t k = 64) {
    GemmShape s;
    s.transpose = Transpose::b;
    s.m = m, s.n = 24, s.k = k;
    s.a_ld = s.b_ld = k;
    s.out_ld = 24;
    return s;
  }
  // Which algorithm ran, alone.
  std::size_t algorithm_of(Gemm& gemm, const GemmShape& s, const void* bias = nullptr) {
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    const auto before = emu::products_run();
    gemm.multiply(s, operands(bias));
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    std::size_t found = emu::kAlgorithms, runs = 0;
    for (std::size_t i = 0; i < emu::kAlgorithms; ++i) {
      runs += emu::products_run()[i] - before[i];
      if (emu::products_run()[i] != before[i]) found = i;
    }
    EXPECT_EQ(runs, 1u);
    return found;
  }
  GemmOperands operands(const void* bias = nullptr) const {
    return {out_.data(), a_.data(), b_.data(), bias, false};
  }
  static std::vector<float> numbers(std::size_t count) {
    std::vector<float> values(count);
    for (std::size_t i = 0; i < count; ++i) values[i] = 1.0f / static_cast<float>(i % 97 + 3);
    return values;
  }
  std::vector<ProductPlan> measure(std::uint32_t fastest, const std::vector<GemmShape>& shapes) {
    emu::options().fastest_algorithm = fastest;
    Gemm gemm(stream_, memory_);
    gemm.begin_measuring(kCandidates);
    for (const GemmShape& s : shapes) gemm.multiply(s, operands(s.bias ? b_.data() : nullptr));
    return gemm.end_measuring();
  }

  Stream stream_;
  DeviceMemory memory_{stream_};
  DeviceBuffer<float> a_{numbers(64 * 64)}, b_{numbers(24 * 64)}, out_{64 * 24};
};

TEST_F(GemmMeasure, TheFirstChoiceIsTheDefault) {
  emu::options().fastest_algorithm = 2;
  Gemm gemm(stream_, memory_);
  EXPECT_EQ(algorithm_of(gemm, shape(32)), 0u);
}

TEST_F(GemmMeasure, TheFastestIsNamedAndRunsWhereItIsAdopted) {
  for (const std::uint32_t fastest : {1u, 2u}) {
    const auto plans = measure(fastest, {shape(32), shape(16), shape(32)});
    ASSERT_EQ(plans.size(), 2u);
    EXPECT_EQ(plans[0].product, "fp32 NT 16 24 64, rows 64 64 24, to fp32");
    EXPECT_EQ(plans[1].product, "fp32 NT 32 24 64, rows 64 64 24, to fp32");
    Gemm gemm(stream_, memory_);
    EXPECT_EQ(algorithm_of(gemm, shape(16)), 0u) << "nobody has adopted it yet";
    gemm.adopt(plans);
    EXPECT_EQ(algorithm_of(gemm, shape(16)), fastest);
    EXPECT_EQ(algorithm_of(gemm, shape(32)), fastest);
    EXPECT_EQ(algorithm_of(gemm, shape(48)), 0u) << "it was not measured";
    gemm.adopt({});
    EXPECT_EQ(algorithm_of(gemm, shape(16)), 0u);
  }
}

TEST_F(GemmMeasure, MeasuringAdoptsNothing) {
  emu::options().fastest_algorithm = 1;
  Gemm gemm(stream_, memory_);
  gemm.begin_measuring(kCandidates);
  gemm.multiply(shape(32), operands());
  EXPECT_EQ(gemm.end_measuring().size(), 1u);
  EXPECT_EQ(algorithm_of(gemm, shape(32)), 0u);
}

TEST_F(GemmMeasure, NothingIsNamedWhereTheFirstChoiceIsTheFastest) {
  EXPECT_TRUE(measure(0, {shape(32), shape(16)}).empty());
}

TEST_F(GemmMeasure, AProductWithBiasIsMeasuredToo) {
  GemmShape with_bias = shape(32);
  with_bias.bias = true;
  const auto plans = measure(1, {with_bias});
  ASSERT_EQ(plans.size(), 1u);
  Gemm gemm(stream_, memory_);
  gemm.adopt(plans);
  EXPECT_EQ(algorithm_of(gemm, with_bias, b_.data()), 1u);
  EXPECT_EQ(algorithm_of(gemm, shape(32)), 0u) << "without bias it is another product";
}

TEST_F(GemmMeasure, OtherAlgorithmsHaveOtherBits) {
  std::vector<std::vector<float>> results;
  for (const std::uint32_t fastest : {0u, 1u, 2u}) {
    const auto plans = measure(fastest, {shape(32)});
    Gemm gemm(stream_, memory_);
    gemm.adopt(plans);
    gemm.multiply(shape(32), operands());
    results.push_back(out_.host());
    results.back().resize(32 * 24);
  }
  EXPECT_NE(results[0], results[1]);
  EXPECT_NE(results[1], results[2]);
}

TEST_F(GemmMeasure, AForeignAlgorithmIsRefusedWithAWayOut) {
  auto plans = measure(1, {shape(32), shape(16)});
  std::swap(plans[0].algorithm, plans[1].algorithm);
  Gemm gemm(stream_, memory_);
  gemm.adopt(plans);
  try {
    gemm.multiply(shape(32), operands());
    FAIL();
  } catch (const EnvironmentError& error) {
    EXPECT_NE(std::string(error.what()).find("delete the plan"), std::string::npos);
  }
}

TEST_F(GemmMeasure, TextThatIsNoAlgorithmIsRefused) {
  Gemm gemm(stream_, memory_);
  const std::string right = measure(1, {shape(32)}).front().algorithm;
  for (const std::string& wrong : {std::string(), right.substr(1), right + "0",
                                   "x" + right.substr(1), "-" + right.substr(1)}) {
    const std::vector<ProductPlan> plans{{"product", wrong}};
    EXPECT_THROW(gemm.adopt(plans), DataError) << wrong;
  }
  const std::vector<ProductPlan> plans{{"product", right}};
  EXPECT_NO_THROW(gemm.adopt(plans));
}

TEST_F(GemmMeasure, TheDeviceHasAName) {
  const DeviceIdentity device = Gemm(stream_, memory_).identity();
  EXPECT_EQ(device.gpu, "Emulated H100");
  EXPECT_EQ(device.multiprocessors, 132);
  EXPECT_EQ(device.library, "cuBLASLt " + std::to_string(cublasLtGetVersion()));
}

}  // namespace
}  // namespace demist::cuda::test
