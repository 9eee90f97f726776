// Kernels in the sizes of large models, 1 to 2 GB an operand, where grids and sums are as long as
// in training, against the CPU's. On the emulated device the same code runs in small sizes.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstring>
#include <numeric>

#include "tests/cuda/pair.hpp"

namespace demist::cuda::test {
namespace {

#ifdef DEMIST_EMULATED
constexpr Shape kLayerNormSize{24, 256}, kLogitsSize{6, 2502};
constexpr std::int64_t kAdamWSize = 3001;
#else
constexpr Shape kLayerNormSize{32768, 4096}, kLogitsSize{2048, 250002};
constexpr std::int64_t kAdamWSize = 300'000'000;
#endif

// In [-scale, scale). The period is no multiple of any row's length.
template <class T>
std::vector<T> numbers(std::int64_t count, std::uint64_t seed, float scale = 1) {
  constexpr std::int64_t kPeriod = 1'000'003;
  std::vector<T> values(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < std::min(count, kPeriod); ++i) {
    const double u =
        uniform(draw(stream_key(seed, "real size", 0), static_cast<std::size_t>(i), 0));
    values[static_cast<std::size_t>(i)] = T(scale * static_cast<float>(2 * u - 1));
  }
  for (std::int64_t i = kPeriod; i < count; i += kPeriod)
    std::copy_n(values.begin(), std::min(kPeriod, count - i), values.begin() + i);
  return values;
}

double as_double(float x) { return x; }
double as_double(bf16 x) { return static_cast<double>(static_cast<float>(x)); }

// The same list on both sides; NaN everywhere when it is an output.
template <class T>
struct Both {
  std::vector<T> host;
  DeviceBuffer<T> device;
  std::int64_t cols;

  Both(std::vector<T> values, std::int64_t columns)
      : host(std::move(values)), device(host), cols(columns) {}
  Both(std::int64_t rows, std::int64_t columns)
      : Both(std::vector<T>(static_cast<std::size_t>(rows * columns), T(std::nanf(""))), columns) {}
  std::int64_t rows() const { return static_cast<std::int64_t>(host.size()) / cols; }
  TensorView host_view() { return matrix(host.data(), rows(), cols); }
  TensorView device_view() const { return matrix(device.data(), rows(), cols); }
  // Relative Frobenius error of the device's values, without copies in double.
  double error() const {
    const std::vector<T> found = device.host();
    double difference = 0, norm = 0;
    for (std::size_t i = 0; i < host.size(); ++i) {
      const double want = as_double(host[i]), d = as_double(found[i]) - want;
      difference += d * d;
      norm += want * want;
    }
    return std::sqrt(difference / norm);
  }
  bool same_bits() const {
    const std::vector<T> found = device.host();
    return std::memcmp(found.data(), host.data(), host.size() * sizeof(T)) == 0;
  }
};

TEST(RealSizes, LayerNormOfXxlRows) {
  const auto [n, d] = kLayerNormSize;
  std::vector<std::uint64_t> sample(static_cast<std::size_t>(n));
  std::iota(sample.begin(), sample.end(), 1ull << 40);
  const DeviceList<std::uint64_t> device_sample(sample);
  Both<bf16> x(numbers<bf16>(n * d, 1), d), residual(numbers<bf16>(n * d, 2, 2), d);
  Both<bf16> dy(numbers<bf16>(n * d, 3), d), sum(n, d), y(n, d), dsum(n, d), dx(n, d);
  Both<float> bias(numbers<float>(d, 4), d), gamma(numbers<float>(d, 5, 2), d);
  Both<float> beta(numbers<float>(d, 6), d), mean(1, n), rstd(1, n), dgamma(1, d), dbeta(1, d);
  Both<float> dbias(1, d);
  const Dropout drop{.p = 0.1f, .key = 77};
  const auto cpu = make_cpu_backend();
  cpu->add_layernorm_forward({.sum = sum.host_view(),
                              .y = y.host_view(),
                              .mean = mean.host,
                              .rstd = rstd.host,
                              .x = x.host_view(),
                              .bias = bias.host,
                              .residual = residual.host_view(),
                              .gamma = gamma.host,
                              .beta = beta.host,
                              .dropout = drop,
                              .grid = {n, 1, sample}});
  add_layernorm_forward({}, {.sum = sum.device_view(),
                             .y = y.device_view(),
                             .mean = mean.device.span(),
                             .rstd = rstd.device.span(),
                             .x = x.device_view(),
                             .bias = bias.device.span(),
                             .residual = residual.device_view(),
                             .gamma = gamma.device.span(),
                             .beta = beta.device.span(),
                             .dropout = drop,
                             .grid = {n, 1, device_sample}});
  for (const Both<bf16>* output : {&sum, &y}) EXPECT_LE(output->error(), kLayerNorm.bf16);
  EXPECT_LE(rstd.error(), kLayerNorm.f32);
  cpu->add_layernorm_backward({.dsum = dsum.host_view(),
                               .dx = dx.host_view(),
                               .dgamma = dgamma.host,
                               .dbeta = dbeta.host,
                               .dbias = dbias.host,
                               .dy = dy.host_view(),
                               .sum = sum.host_view(),
                               .mean = mean.host,
                               .rstd = rstd.host,
                               .gamma = gamma.host,
                               .dropout = drop,
                               .grid = {n, 1, sample}});
  const Workspace work(add_layernorm_backward_workspace(n, d));
  add_layernorm_backward(work.launch(), {.dsum = dsum.device_view(),
                                         .dx = dx.device_view(),
                                         .dgamma = dgamma.device.span(),
                                         .dbeta = dbeta.device.span(),
                                         .dbias = dbias.device.span(),
                                         .dy = dy.device_view(),
                                         .sum = sum.device_view(),
                                         .mean = mean.device.span(),
                                         .rstd = rstd.device.span(),
                                         .gamma = gamma.device.span(),
                                         .dropout = drop,
                                         .grid = {n, 1, device_sample}});
  for (const Both<bf16>* output : {&dsum, &dx}) EXPECT_LE(output->error(), kLayerNorm.bf16);
  for (const Both<float>* output : {&dgamma, &dbeta, &dbias})
    EXPECT_LE(output->error(), kLongColumnSum);
}

TEST(RealSizes, CrossEntropyOverTheVocabularyOfXlmR) {
  const auto [m, words] = kLogitsSize;
  const std::int64_t columns = (words + 7) / 8 * 8;
  std::vector<std::int32_t> target(static_cast<std::size_t>(m));
  for (std::int64_t r = 0; r < m; ++r)
    target[static_cast<std::size_t>(r)] = static_cast<std::int32_t>(r * 7919 % words);
  const std::vector<float> weight(static_cast<std::size_t>(m), 0.5f);
  const std::vector<float> smooth(static_cast<std::size_t>(m), 0.1f);
  const DeviceList<std::int32_t> device_target(target);
  const DeviceList<float> device_weight(weight), device_smooth(smooth);
  Both<float> logits(numbers<float>(m * columns, 1, 5), columns);
  Both<float> bias(numbers<float>(columns, 2), columns), statistics(m, CrossEntropyColumn::count);
  Both<float> lse(1, m), dbias(std::vector<float>(static_cast<std::size_t>(columns)), columns);
  Both<bf16> dlogits(m, columns);
  std::vector<double> row_loss(static_cast<std::size_t>(m));
  const DeviceList<double> device_row_loss(row_loss);
  const CrossEntropyRows rows{target, weight, smooth, words};
  const CrossEntropyRows device_rows{device_target, device_weight, device_smooth, words};
  const VocabularyPart part{.begin = 0, .valid = words};
  const auto cpu = make_cpu_backend();
  cpu->cross_entropy_statistics(statistics.host_view(), logits.host_view(), bias.host, target,
                                part);
  cpu->cross_entropy_loss(lse.host, row_loss, statistics.host_view(), rows);
  cpu->cross_entropy_backward(dlogits.host_view(), dbias.host, logits.host_view(), bias.host,
                              lse.host, rows, part);
  cross_entropy_statistics({}, statistics.device_view(), logits.device_view(), bias.device.span(),
                           device_target, part);
  cross_entropy_loss({}, lse.device.span(), device_row_loss, statistics.device_view(), device_rows);
  const Workspace work(cross_entropy_backward_workspace(m, columns));
  cross_entropy_backward(work.launch(), dlogits.device_view(), dbias.device.span(),
                         logits.device_view(), bias.device.span(), lse.device.span(), device_rows,
                         part);
  EXPECT_LE(statistics.error(), kLongStatistics);
  EXPECT_LE(lse.error(), kStatistics.f32);
  EXPECT_LE(relative_error(device_row_loss.host(), row_loss), kCrossEntropy.f32);
  EXPECT_LE(dlogits.error(), kCrossEntropy.bf16);
  EXPECT_LE(dbias.error(), kLongColumnSum);
}

// The bits are the CPU's.
TEST(RealSizes, AdamWOfAWholeModel) {
  const std::int64_t n = kAdamWSize;
  Both<float> param(numbers<float>(n, 1), n), m(numbers<float>(n, 2, 0.1f), n);
  Both<float> v(std::vector<float>(static_cast<std::size_t>(n), 0.25f), n);
  Both<float> grad(numbers<float>(n, 4), n);
  Both<bf16> work(1, n);
  const AdamW op{.lr = 1e-3f, .weight_decay = 0.01f, .bias_correction1 = 10, .grad_scale = 0.3f};
  make_cpu_backend()->adamw(param.host, m.host, v.host, grad.host, work.host_view(), op);
  adamw({}, param.device.span(), m.device.span(), v.device.span(), grad.device.span(),
        work.device_view(), op);
  for (const Both<float>* output : {&param, &m, &v}) EXPECT_TRUE(output->same_bits());
  EXPECT_TRUE(work.same_bits());
}

}  // namespace
}  // namespace demist::cuda::test
