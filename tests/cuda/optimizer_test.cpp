// SPDX-License-Identifier: Apache-2.0
#include <bit>

#include "tests/cuda/pair.hpp"
#include "tests/support/one_tensor.hpp"

namespace demist::cuda::test {
namespace {

// Of these operations the device must have the CPU's bits.
const std::int64_t kSizes[] = {1, 7, 8, 1023, 1024, 1025, 20003, 70001};
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> random_floats(std::int64_t n, std::uint64_t seed, double scale = 1) {
  return demist::test::floats(random_matrix(1, n, seed, DType::f32, scale).values);
}
std::vector<std::uint32_t> bits(std::span<const float> values) {
  std::vector<std::uint32_t> result;
  for (const float value : values) result.push_back(std::bit_cast<std::uint32_t>(value));
  return result;
}
// With values that no fixed point holds, that are denormal, and that lie on ties.
std::vector<float> awkward_floats(std::int64_t n) {
  std::vector<float> values = random_floats(n, 1);
  const float odd[] = {std::nanf(""), kInfinity, -kInfinity, 3e38f, -3e38f,  0x1p-149f, -0.0f,
                       0.5f,          1.5f,      2.5f,       -1.5f, 0x1p62f, -0x1p63f,  0x1p63f};
  for (std::size_t i = 0; i < std::size(odd) && i < values.size(); ++i) values[i] = odd[i];
  return values;
}

// One tensor of n elements from `begin` on, on both sides.
class DevicePieces {
 public:
  DevicePieces(std::int64_t n, int exponent, std::int64_t begin = 0)
      : host_(n, exponent, begin), pieces_(host_.pieces()), scale_(host_.scale()) {}
  ScaledPieces host() const { return host_.view(); }
  ScaledPieces device() const { return {pieces_.span(), scale_.span(), host_.view().aligned}; }

 private:
  demist::test::OneTensor host_;
  DeviceList<ScaledPiece> pieces_;
  DeviceList<double> scale_;
};

class DeviceOptimizerTest : public testing::Test {
 protected:
  const std::unique_ptr<Backend> cpu_ = make_cpu_backend();
  const Launch launch_{};
};

TEST_F(DeviceOptimizerTest, FixedPointAddHasTheCpusBits) {
  for (const std::int64_t n : kSizes)
    for (const int exponent : {-3, 0, 20, 61}) {
      const std::vector<float> grad = awkward_floats(n);
      std::vector<std::int64_t> acc(grad.size(), -5);
      const DeviceList<float> device_grad(grad);
      const DeviceList<std::int64_t> device_acc(acc);
      const DevicePieces pieces(n, exponent);
      std::vector<float> largest(pieces.host().pieces.size(), 2.0f);
      const DeviceList<float> device_largest(largest);
      cpu_->fixed_point_add(acc, largest, grad, pieces.host());
      fixed_point_add(launch_, device_acc, device_largest, device_grad, pieces.device());
      EXPECT_EQ(device_acc.host(), acc) << n << " elements, exponent " << exponent;
      EXPECT_EQ(bits(device_largest.host()), bits(largest));
    }
}

TEST_F(DeviceOptimizerTest, FixedPointToFloatHasTheCpusBits) {
  for (const std::int64_t n : kSizes)
    for (const int exponent : {-3, 0, 54, 150}) {
      std::vector<std::int64_t> acc;
      for (std::int64_t i = 0; i < n; ++i)
        acc.push_back((i * 0x2545f4914f6cdd1dll) >> static_cast<int>(i % 60));
      acc[0] = (1ll << 54) + (1ll << 30) + 1;  // above a tie; a double would round it down
      std::vector<float> out(acc.size());
      const DeviceList<std::int64_t> device_acc(acc);
      const DeviceList<float> device_out(out);
      const DevicePieces pieces(n, exponent);
      cpu_->fixed_point_to_float(out, acc, pieces.host());
      fixed_point_to_float(launch_, device_out, device_acc, pieces.device());
      EXPECT_EQ(bits(device_out.host()), bits(out)) << n << " elements, exponent " << exponent;
    }
}

TEST_F(DeviceOptimizerTest, FixedPointRoundHasTheCpusBits) {
  for (const std::int64_t n : kSizes)
    for (const int exponent : {-3, 0, 20, 61}) {
      std::vector<float> grad = awkward_floats(n);
      const DeviceList<float> device(grad);
      const DevicePieces pieces(n, exponent);
      cpu_->fixed_point_round(grad, grad, pieces.host());
      fixed_point_round(launch_, device, device, pieces.device());
      EXPECT_EQ(bits(device.host()), bits(grad)) << n << " elements, exponent " << exponent;
    }
}

// A list that begins in the middle of 16 bytes.
TEST_F(DeviceOptimizerTest, UnalignedSpans) {
  std::vector<float> grad = awkward_floats(100);
  std::vector<std::int64_t> acc(100, 3);
  const DeviceList<float> device_grad(grad);
  const DeviceList<std::int64_t> device_acc(acc);
  const DevicePieces pieces(80, 10, 5);
  std::vector<float> largest(1);
  const DeviceList<float> device_largest(largest);
  cpu_->fixed_point_add(std::span(acc).subspan(1, 90), largest, std::span(grad).subspan(3, 90),
                        pieces.host());
  fixed_point_add(launch_, device_acc.span().subspan(1, 90), device_largest,
                  device_grad.span().subspan(3, 90), pieces.device());
  EXPECT_EQ(device_acc.host(), acc);
  EXPECT_EQ(bits(device_largest.host()), bits(largest));
}

float device_max_abs(float before, const std::vector<float>& values) {
  const auto n = static_cast<std::int64_t>(values.size());
  const DeviceList<float> largest({before}), device(values);
  const Workspace work(max_abs_workspace(n));
  max_abs(work.launch(), largest, device);
  return largest.host()[0];
}

TEST_F(DeviceOptimizerTest, MaxAbsFindsTheLargestAndWhatIsNotFinite) {
  for (const std::int64_t n : {1, 9, 1023, 40000}) {  // one piece, several
    std::vector<float> values = random_floats(n, 2);
    float want = 0;
    for (const float value : values) want = std::max(want, std::abs(value));
    EXPECT_EQ(device_max_abs(0, values), want);
    EXPECT_EQ(device_max_abs(7, values), 7);
    EXPECT_TRUE(std::isnan(device_max_abs(std::nanf(""), values)));
    values.back() = -3;
    EXPECT_EQ(device_max_abs(0, values), 3);
    for (const float odd : {std::nanf(""), kInfinity, -kInfinity}) {
      values[values.size() / 2] = odd;
      EXPECT_TRUE(std::isnan(device_max_abs(1, values)));
    }
  }
  EXPECT_EQ(device_max_abs(2, {}), 2);
}

TEST_F(DeviceOptimizerTest, TileSumSquaresHasTheCpusBits) {
  for (const std::int64_t n : kSizes) {
    const std::vector<float> values = random_floats(n, 3, 10);
    std::vector<double> sums(static_cast<std::size_t>((n + 1023) / 1024));
    const DeviceList<float> device(values);
    const DeviceList<double> device_sums(sums);
    cpu_->tile_sum_squares(sums, values);
    tile_sum_squares(launch_, device_sums, device);
    EXPECT_EQ(device_sums.host(), sums) << n;
  }
}

// Three steps, with a copy in each type and none, aligned and not.
TEST_F(DeviceOptimizerTest, AdamWHasTheCpusBits) {
  for (const std::int64_t n : kSizes)
    for (const std::size_t first : {0, 1}) {
      std::vector<float> param = random_floats(n + 1, 1), m = random_floats(n + 1, 2, 0.1);
      std::vector<float> v = random_floats(n + 1, 3), grad = random_floats(n + 1, 4);
      for (float& value : v) value *= value;
      const DeviceList<float> d_param(param), d_m(m), d_v(v), d_grad(grad);
      const auto part = [&](auto&& list) {
        return std::span(list).subspan(first, static_cast<std::size_t>(n));
      };
      Pair bf16_work(1, n, DType::bf16, 0), f32_work(1, n, DType::f32, 0);
      AdamW op{.lr = 1e-3f, .weight_decay = 0.01f, .grad_scale = 0.3f};
      for (int step = 0; step < 3; ++step) {
        op.bias_correction1 = 1 / (1 - std::pow(0.9f, static_cast<float>(step + 1)));
        const TensorView host = step == 0 ? bf16_work.host() : f32_work.host();
        const TensorView device = step == 0 ? bf16_work.device() : f32_work.device();
        cpu_->adamw(part(param), part(m), part(v), part(grad), step == 2 ? TensorView{} : host, op);
        adamw(launch_, part(d_param.span()), part(d_m.span()), part(d_v.span()),
              part(d_grad.span()), step == 2 ? TensorView{} : device, op);
      }
      EXPECT_EQ(bits(d_param.host()), bits(param)) << n;
      EXPECT_EQ(bits(d_m.host()), bits(m)) << n;
      EXPECT_EQ(bits(d_v.host()), bits(v)) << n;
      EXPECT_EQ(bf16_work.error(), 0);
      EXPECT_EQ(f32_work.error(), 0);
    }
}

}  // namespace
}  // namespace demist::cuda::test
