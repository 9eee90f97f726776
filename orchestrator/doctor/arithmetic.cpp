// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/doctor/arithmetic.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.hpp"
#include "core/philox.hpp"
#include "orchestrator/progress.hpp"

namespace demist::doctor {
namespace {

// In [-1, 1), exact in fp32.
std::vector<float> random_numbers(std::size_t count, std::uint64_t seed) {
  std::vector<float> numbers(count);
  for (std::size_t i = 0; i < count; ++i)
    numbers[i] = static_cast<float>(static_cast<std::int64_t>(mix64(seed + i)) >> 40) * 0x1p-23F;
  return numbers;
}

// What a rank adds to element i of the all-reduce: 0 to 255, so that sums of 65,536 ranks are
// exact.
std::uint32_t term(int rank, std::uint32_t i) {
  return ((i + 1) * 2654435761U ^ (static_cast<std::uint32_t>(rank) + 1) * 2246822519U) *
             3266489917U >>
         24;
}

std::vector<float> terms(int rank, std::size_t count) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i)
    values[i] = static_cast<float>(term(rank, static_cast<std::uint32_t>(i)));
  return values;
}

std::vector<float> sums_of_terms(int ranks, std::size_t count) {
  std::vector<std::uint32_t> sums(count);
  for (int rank = 0; rank < ranks; ++rank)
    for (std::size_t i = 0; i < count; ++i) sums[i] += term(rank, static_cast<std::uint32_t>(i));
  return {sums.begin(), sums.end()};
}

}  // namespace

bool is_product(std::span<const float> out, std::span<const float> a, std::span<const float> b,
                std::int64_t size) {
  const auto count = static_cast<std::size_t>(size);
  const auto row = [count](std::span<const float> matrix, std::size_t i) {
    return matrix.subspan(i * count, count);
  };
  std::vector<double> signs(count), sums(count);  // sums: b^T times the signs
  for (std::size_t j = 0; j < count; ++j) {
    signs[j] = mix64(j) % 2 == 0 ? 1 : -1;
    for (std::size_t k = 0; k < count; ++k) sums[k] += signs[j] * row(b, j)[k];
  }
  // Roundings of fp32 come to some 1e-7 * size in all; an element is about sqrt(size) / 3.
  const double most = 1e-5 * static_cast<double>(size);
  for (std::size_t i = 0; i < count; ++i) {
    double difference = 0;
    for (std::size_t k = 0; k < count; ++k)
      difference += row(out, i)[k] * signs[k] - row(a, i)[k] * sums[k];
    if (!(std::abs(difference) <= most)) return false;  // what is not a number is wrong, too
  }
  return true;
}

double product_rate(Backend& backend) {
  constexpr std::int64_t size = 1024;
  constexpr auto count = static_cast<std::size_t>(size * size);
  const std::vector<float> left = random_numbers(count, 0), right = random_numbers(count, count);
  Tensor a(DType::f32, size, size, backend.memory()), b(DType::f32, size, size, backend.memory()),
      out(DType::f32, size, size, backend.memory());
  backend.upload(a.view().data, left.data(), a.bytes());
  backend.upload(b.view().data, right.data(), b.bytes());
  const auto product = [&] {
    backend.gemm(out.view(), a.view(), b.view(), Transpose::b);
    float first = 0;
    backend.download(&first, out.view().data, sizeof first);
  };
  const auto check = [&] {
    std::vector<float> found(count);
    backend.download(found.data(), out.view().data, out.bytes());
    if (!is_product(found, left, right, size))
      throw EnvironmentError(
          "computes wrong: a product of matrices differs from the same in double precision; do not "
          "use this machine before its processor and memory are tested");
  };
  product();  // compiles it
  check();
  constexpr double enough = 0.3;  // seconds
  int products = 0;
  const double begin = steady_seconds();
  for (; products < 3 || steady_seconds() < begin + enough; ++products) product();
  const double seconds = steady_seconds() - begin;
  check();
  return 2.0 * std::pow(size, 3) * products / seconds;
}

double all_reduce_rate(const mpi::Comm& world, Backend& backend, Communicator& communicator) {
  constexpr std::size_t count = (std::size_t{1} << 20) / sizeof(float);
  const std::vector<float> mine = terms(world.rank(), count),
                           expected = sums_of_terms(world.size(), count);
  std::vector<float> found(count);
  Buffer<float> values(count, backend.memory());
  constexpr int rounds = 10;
  double seconds = 0;
  bool right = true;
  for (int i = 0; i < rounds; ++i) {
    backend.upload(values.data(), mine.data(), values.bytes());
    world.barrier();
    const double begin = steady_seconds();
    communicator.all_reduce_sum(values.span());
    backend.download(found.data(), values.data(), sizeof(float));  // waits for it
    seconds += steady_seconds() - begin;
    backend.download(found.data(), values.data(), values.bytes());
    right = right && found == expected;
  }
  if (!right)
    throw EnvironmentError(
        "gives wrong sums; check the network and its drivers, and the processor");
  return rounds * static_cast<double>(values.bytes()) / seconds;
}

}  // namespace demist::doctor
