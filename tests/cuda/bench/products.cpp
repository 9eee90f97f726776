// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <vector>

#include "kernels/cuda/cuda_backend.hpp"
#include "tests/cuda/bench/measurements.hpp"
#include "tests/cuda/bench/models.hpp"
#include "tests/cuda/bench/stopwatch.hpp"

namespace demist::bench {
namespace {

struct Product {
  std::string name;
  std::int64_t m, n, k;
  Transpose transpose;
  DType out;
  // Rows of the result start at multiples of 256 bytes, as the model's do.
  std::int64_t ld() const { return (n + 127) / 128 * 128; }
};

// The products of one layer at n tokens, and the logits of 2,048 rows (docs: model FLOPs).
std::vector<Product> products_of(const NamedModel& model, std::int64_t n) {
  const std::int64_t d = model.hidden, rows = std::min<std::int64_t>(n, 2048);
  const std::string name = model.name;
  return {{name + " q, k, v", n, 3 * d, d, Transpose::b, DType::bf16},
          {name + " FFN in", n, 4 * d, d, Transpose::b, DType::bf16},
          {name + " FFN out", n, d, 4 * d, Transpose::b, DType::bf16},
          {name + " FFN in, input gradient", n, d, 4 * d, Transpose::none, DType::bf16},
          {name + " FFN in, weight gradient", 4 * d, d, n, Transpose::a, DType::f32},
          {name + " logits", rows, model.vocab, d, Transpose::b, DType::f32}};
}

std::vector<Product> all_products(bool tiny) {
  std::vector<Product> products;
  const std::int64_t square = tiny ? 64 : 8192;
  products.push_back({"square", square, square, square, Transpose::b, DType::bf16});
  for (const NamedModel& model : kModels) {
    if (tiny != (std::string(model.name) == "tiny")) continue;
    const std::int64_t tokens = tiny ? 32 : model.hidden >= 4096 ? 8192 : 16384;
    for (Product& product : products_of(model, tokens)) products.push_back(std::move(product));
  }
  return products;
}

double product_seconds(cuda::CudaBackend& backend, const Product& p, const Buffer<bf16>& numbers,
                       Buffer<float>& result, int repetitions) {
  const bool a_first = p.transpose != Transpose::a, b_first = p.transpose == Transpose::b;
  // The second operand starts elsewhere among the same numbers.
  const bf16* second = numbers.data() + numbers.size() / 2;
  const auto a = a_first ? matrix(numbers.data(), p.m, p.k) : matrix(numbers.data(), p.k, p.m);
  const auto b = b_first ? matrix(second, p.n, p.k) : matrix(second, p.k, p.n);
  const TensorView out{result.data(), p.out, p.m, p.n, p.ld()};
  return median_seconds(backend.stream(), repetitions,
                        [&] { backend.gemm(out, a, b, p.transpose); });
}

}  // namespace

Buffer<bf16> random_numbers(Backend& backend, std::size_t size) {
  Buffer<bf16> numbers(size, backend.memory());
  std::vector<bf16> block(std::min(size, std::size_t{1} << 22));
  for (std::size_t i = 0; i < block.size(); ++i)
    block[i] = bf16(static_cast<float>(2 * uniform(draw(7, i, 0)) - 1));
  backend.upload(numbers.data(), block.data(), block.size() * sizeof(bf16));
  for (std::size_t done = block.size(); done < size; done *= 2)
    backend.copy(numbers.data() + done, numbers.data(), std::min(done, size - done) * sizeof(bf16));
  return numbers;
}

void measure_products(bool tiny) {
  cuda::CudaBackend backend;
  const std::vector<Product> products = all_products(tiny);
  std::int64_t operand = 0, result = 0;
  for (const Product& p : products) {
    operand = std::max({operand, p.m * p.k, p.n * p.k});
    result = std::max(result, p.m * p.ld());
  }
  const Buffer<bf16> numbers = random_numbers(backend, static_cast<std::size_t>(2 * operand));
  Buffer<float> out(static_cast<std::size_t>(result), backend.memory());
  for (const Product& p : products) {
    const double seconds = product_seconds(backend, p, numbers, out, tiny ? 3 : 20);
    print({{"kind", "product"},
           {"name", p.name},
           {"m", p.m},
           {"n", p.n},
           {"k", p.k},
           {"flops",
            2.0 * static_cast<double>(p.m) * static_cast<double>(p.n) * static_cast<double>(p.k)},
           {"seconds", seconds}});
  }
}

}  // namespace demist::bench
