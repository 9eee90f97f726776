// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/backend.hpp"
#include "kernels/cuda/attention.hpp"
#include "tests/cuda/tolerance.hpp"
#include "tests/emulation/device_buffer.hpp"
#include "tests/kernels/attention_oracle.hpp"
#ifdef DEMIST_EMULATED
#include "tests/emulation/emulator.hpp"
#endif

namespace demist::cuda::test {
namespace {

using demist::test::relative_error;

enum class Path { fused, unfused_bf16, unfused_f32 };
enum class Keys { all, padded, documents, empty_rows, none };

struct Case {
  const char* name;
  std::int64_t rows, cols, heads, head_dim;
  float dropout;
  Keys keys;
};

DType storage_of(Path path) { return path == Path::unfused_f32 ? DType::f32 : DType::bf16; }

float as_float(float x) { return x; }
float as_float(bf16 x) { return static_cast<float>(x); }

// Products on the host, in fp32 and in order.
class HostGemm : public BatchedGemm {
 public:
  void multiply(const MatrixBatch<void>& out, const MatrixBatch<const void>& a,
                const MatrixBatch<const void>& b, Transpose transpose, std::int64_t sequences,
                std::int64_t heads) override {
    for (std::int64_t s = 0; s < sequences; ++s)
      for (std::int64_t h = 0; h < heads; ++h) {
        const Host left = Host::read(a, s, h), right = Host::read(b, s, h);
        Host result(out.dtype, out.rows, out.cols);
        const std::int64_t inner = transpose == Transpose::a ? a.rows : a.cols;
        for (std::int64_t r = 0; r < out.rows; ++r)
          for (std::int64_t c = 0; c < out.cols; ++c) {
            float sum = 0;
            for (std::int64_t i = 0; i < inner; ++i)
              sum += (transpose == Transpose::a ? left.get(i, r) : left.get(r, i)) *
                     (transpose == Transpose::b ? right.get(c, i) : right.get(i, c));
            result.set(r, c, sum);
          }
        result.write(out, s, h);
      }
  }

 private:
  // One matrix, row after row: what lies between them on the device stays there.
  class Host {
   public:
    Host(DType dtype, std::int64_t rows, std::int64_t cols)
        : dtype_(dtype),
          rows_(static_cast<std::size_t>(rows)),
          cols_(static_cast<std::size_t>(cols)),
          bytes_(rows_ * row_bytes()) {}
    static Host read(const MatrixBatch<const void>& batch, std::int64_t s, std::int64_t h) {
      Host host(batch.dtype, batch.rows, batch.cols);
      EXPECT_EQ(cudaMemcpy2DAsync(host.bytes_.data(), host.row_bytes(), address(batch, s, h),
                                  host.pitch(batch.ld), host.row_bytes(), host.rows_,
                                  cudaMemcpyDeviceToHost, nullptr),
                cudaSuccess);
      EXPECT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
      return host;
    }
    void write(const MatrixBatch<void>& batch, std::int64_t s, std::int64_t h) const {
      EXPECT_EQ(cudaMemcpy2DAsync(address(batch, s, h), pitch(batch.ld), bytes_.data(), row_bytes(),
                                  row_bytes(), rows_, cudaMemcpyHostToDevice, nullptr),
                cudaSuccess);
      EXPECT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
    }
    float get(std::int64_t r, std::int64_t c) const {
      if (dtype_ == DType::f32) return value<float>(at(r, c));
      return as_float(value<bf16>(at(r, c)));
    }
    void set(std::int64_t r, std::int64_t c, float x) {
      const bf16 rounded(x);
      if (dtype_ == DType::f32)
        std::memcpy(&bytes_[at(r, c)], &x, sizeof x);
      else
        std::memcpy(&bytes_[at(r, c)], &rounded, sizeof rounded);
    }

   private:
    std::size_t row_bytes() const { return cols_ * size_of(dtype_); }
    std::size_t pitch(std::int64_t ld) const {
      return static_cast<std::size_t>(ld) * size_of(dtype_);
    }
    std::size_t at(std::int64_t r, std::int64_t c) const {
      return (static_cast<std::size_t>(r) * cols_ + static_cast<std::size_t>(c)) * size_of(dtype_);
    }
    template <class T>
    T value(std::size_t at) const {
      T found;
      std::memcpy(&found, &bytes_[at], sizeof found);
      return found;
    }
    template <class Void>
    static Void* address(const MatrixBatch<Void>& batch, std::int64_t s, std::int64_t h) {
      const std::int64_t elements = s * batch.sequence_stride + h * batch.head_stride;
      const BasicView<Void> all{batch.data, batch.dtype, batch.rows, batch.cols, batch.ld};
      return all.col_slice(elements, 1).data;
    }

    DType dtype_;
    std::size_t rows_, cols_;
    std::vector<std::byte> bytes_;
  };
};

// One problem's inputs on the host; values are drawn per token, so that a batch holds its rows.
template <class S>
struct Problem {
  Case shape;
  std::vector<std::uint64_t> sample;
  std::vector<std::int32_t> begin, end;
  std::vector<S> qkv, dout;
  Attention op;

  explicit Problem(const Case& c, std::uint64_t first_sample = 0) : shape(c) {
    for (std::int64_t r = 0; r < c.rows; ++r)
      sample.push_back(first_sample + static_cast<std::uint64_t>(r));
    for (const std::uint64_t name : sample)
      for (std::int64_t column = 0; column < c.cols; ++column) add_token(name, column);
    op.heads = c.heads;
    op.head_dim = c.head_dim;
    op.grid = {c.rows, c.cols, sample};
    op.keys = {begin, end};
    op.dropout = {c.dropout, stream_key(7, "attention", 3)};
  }
  Problem(const Problem&) = delete;

  std::int64_t tokens() const { return shape.rows * shape.cols; }
  std::int64_t width() const { return shape.heads * shape.head_dim; }

 private:
  void add_token(std::uint64_t name, std::int64_t column) {
    std::mt19937_64 generator(name * 100003 + static_cast<std::uint64_t>(column));
    std::normal_distribution<float> normal;
    for (std::int64_t i = 0; i < 3 * width(); ++i) qkv.push_back(S(normal(generator)));
    for (std::int64_t i = 0; i < width(); ++i) dout.push_back(S(normal(generator)));
    const std::int64_t cols = shape.cols, cut = (cols + static_cast<std::int64_t>(name)) / 3;
    std::int64_t from = 0, to = cols;
    if (shape.keys == Keys::padded) to = cols - (static_cast<std::int64_t>(name) * 5 + 3) % cols;
    if (shape.keys == Keys::documents) (column < cut ? to : from) = cut;
    if (shape.keys == Keys::empty_rows && column % 3 == 0) from = to = column;
    if (shape.keys == Keys::none) from = to = 0;
    begin.push_back(static_cast<std::int32_t>(from));
    end.push_back(static_cast<std::int32_t>(to));
  }
};

template <class S>
struct Result {
  std::vector<S> out, dqkv;
  std::vector<float> lse;
  bool operator==(const Result& other) const {
    const auto same = [](const auto& a, const auto& b) {
      return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0;
    };
    return same(out, other.out) && same(dqkv, other.dqkv) && same(lse, other.lse);
  }
};

// Forward and backward on the device.
template <class S>
Result<S> run(const Problem<S>& problem, Path path) {
  const auto size = [](std::int64_t n) { return static_cast<std::size_t>(n); };
  const std::int64_t n = problem.tokens(), width = problem.width();
  const DeviceBuffer<std::uint64_t> sample(problem.sample);
  const DeviceBuffer<std::int32_t> begin(problem.begin), end(problem.end);
  const DeviceBuffer<S> qkv(problem.qkv), dout(problem.dout), out(size(n * width)),
      dqkv(size(n * 3 * width));
  const DeviceBuffer<float> lse(size(n * problem.op.heads));
  Attention op = problem.op;
  op.grid.sample = sample.span();
  op.keys = {begin.span(), end.span()};
  const AttentionForward forward{matrix(out.data(), n, width), matrix(lse.data(), op.heads, n),
                                 matrix<const S>(qkv.data(), n, 3 * width)};
  const AttentionBackward backward{matrix(dqkv.data(), n, 3 * width),
                                   matrix<const S>(dout.data(), n, width), forward.qkv, forward.out,
                                   forward.lse};
  HostGemm gemm;
  const bool fused = path == Path::fused;
  const std::size_t bytes = fused
                                ? fused_attention_workspace(op)
                                : std::max(unfused_attention_forward_workspace(op, dtype_of<S>()),
                                           unfused_attention_backward_workspace(op, dtype_of<S>()));
  const auto memory = DeviceBuffer<std::byte>::unwritten(bytes);
  const Launch at{nullptr, memory.data(), bytes};
  if (fused) {
    EXPECT_TRUE(fused_attention_supports(forward.qkv, op));
    fused_attention_forward(at, forward, op);
    fused_attention_backward(at, backward, op);
  } else {
    unfused_attention_forward(at, forward, op, gemm);
    unfused_attention_backward(at, backward, op, gemm);
  }
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  return {out.host(), dqkv.host(), lse.host()};
}

template <class S>
std::vector<double> doubles(const std::vector<S>& values) {
  std::vector<double> result;
  for (const S x : values) result.push_back(as_float(x));
  return result;
}

template <class S>
void expect_close(const Problem<S>& problem, const Result<S>& result, Path path) {
  const DType dtype = storage_of(path);
  const oracle::AttentionOracle expected(problem.op, doubles(problem.qkv));
  EXPECT_LE(relative_error(doubles(result.out), expected.out), kAttentionForward.of(dtype));
  EXPECT_LE(relative_error(doubles(result.lse), expected.lse), kAttentionLse.of(dtype));
  EXPECT_LE(relative_error(doubles(result.dqkv), expected.backward(doubles(problem.dout))),
            kAttentionBackward.of(dtype));
}

constexpr Case kFusedCases[] = {
    {"one_token", 2, 1, 2, 64, 0.1f, Keys::all},
    {"odd", 2, 31, 2, 80, 0.0f, Keys::all},
    {"padded", 2, 77, 2, 128, 0.1f, Keys::padded},
    {"documents", 2, 128, 2, 64, 0.1f, Keys::documents},
    {"whole_tiles", 1, 128, 1, 80, 0.1f, Keys::all},
    {"documents_of_several_tiles", 1, 300, 1, 80, 0.25f, Keys::documents},
    {"empty_rows", 2, 31, 2, 64, 0.25f, Keys::empty_rows},
    {"empty_rows_in_whole_tiles", 1, 128, 1, 128, 0.1f, Keys::empty_rows},
    {"nothing_to_see", 1, 31, 1, 64, 0.1f, Keys::none},
    {"long", 1, 512, 1, 64, 0.1f, Keys::all},
    {"long_documents", 1, 512, 1, 128, 0.0f, Keys::documents},
};
constexpr Case kUnfusedCases[] = {
    {"one_token", 2, 1, 2, 8, 0.0f, Keys::all},
    {"tiny_head", 1, 9, 1, 3, 0.0f, Keys::padded},
    {"padded", 2, 77, 2, 80, 0.1f, Keys::padded},
    {"documents", 1, 300, 1, 16, 0.1f, Keys::documents},
    {"empty_rows", 2, 31, 2, 16, 0.25f, Keys::empty_rows},
    {"nothing_to_see", 1, 31, 1, 8, 0.1f, Keys::none},
};

std::string name_of(const testing::TestParamInfo<Case>& info) { return info.param.name; }

class FusedAttention : public testing::TestWithParam<Case> {};
TEST_P(FusedAttention, MatchesTheOracle) {
  const Problem<bf16> problem(GetParam());
  expect_close(problem, run(problem, Path::fused), Path::fused);
}
INSTANTIATE_TEST_SUITE_P(Cuda, FusedAttention, testing::ValuesIn(kFusedCases), name_of);

class UnfusedAttention : public testing::TestWithParam<Case> {};
TEST_P(UnfusedAttention, MatchesTheOracleInFp32) {
  const Problem<float> problem(GetParam());
  expect_close(problem, run(problem, Path::unfused_f32), Path::unfused_f32);
}
TEST_P(UnfusedAttention, MatchesTheOracleInBf16) {
  const Problem<bf16> problem(GetParam());
  expect_close(problem, run(problem, Path::unfused_bf16), Path::unfused_bf16);
}
INSTANTIATE_TEST_SUITE_P(Cuda, UnfusedAttention, testing::ValuesIn(kUnfusedCases), name_of);

class AnyPath : public testing::TestWithParam<Path> {};
INSTANTIATE_TEST_SUITE_P(Cuda, AnyPath, testing::Values(Path::fused, Path::unfused_bf16));

constexpr Case kDocuments = {"", 2, 77, 2, 64, 0.1f, Keys::documents};

// Both devices round where the other does, so they are closer to each other than twice the limit.
TEST_P(AnyPath, MatchesTheCpu) {
  Problem<bf16> problem(kDocuments);
  const Result<bf16> device = run(problem, GetParam());
  const auto backend = make_cpu_backend();
  const std::int64_t n = problem.tokens(), width = problem.width();
  Result<bf16> host{std::vector<bf16>(problem.dout.size()), std::vector<bf16>(problem.qkv.size()),
                    std::vector<float>(static_cast<std::size_t>(n * problem.op.heads))};
  const auto out = matrix(host.out.data(), n, width),
             qkv = matrix(problem.qkv.data(), n, 3 * width);
  const auto lse = matrix(host.lse.data(), problem.op.heads, n);
  backend->attention_forward(out, lse, qkv, problem.op);
  backend->attention_backward(matrix(host.dqkv.data(), n, 3 * width),
                              matrix(problem.dout.data(), n, width), qkv, out, lse, problem.op);
  EXPECT_LE(relative_error(doubles(device.out), doubles(host.out)), 2 * kAttentionForward.bf16);
  EXPECT_LE(relative_error(doubles(device.dqkv), doubles(host.dqkv)), 2 * kAttentionBackward.bf16);
}

// With V the unit vectors, an output row is a row of dropped probabilities: the dropped ones are 0.
TEST_P(AnyPath, DropsWhatTheCpuDrops) {
  Problem<bf16> problem({"", 2, 64, 2, 64, 0.3f, Keys::all});
  problem.op.first_head = 5;
  for (std::int64_t t = 0; t < problem.tokens(); ++t)
    for (std::int64_t i = 0; i < problem.width(); ++i)
      problem.qkv[static_cast<std::size_t>(t * 3 * problem.width() + 2 * problem.width() + i)] =
          bf16(i % 64 == t % 64 ? 1.0f : 0.0f);
  const auto out = run(problem, GetParam()).out;
  for (std::int64_t t = 0; t < problem.tokens(); ++t)
    for (std::int64_t i = 0; i < problem.width(); ++i) {
      const auto position = static_cast<std::uint32_t>(t % 64 * Attention::kMaxHeads + 5 + i / 64);
      const double factor = oracle::dropout_factor(
          problem.op.dropout, problem.sample[static_cast<std::size_t>(t / 64)], position, i % 64);
      ASSERT_EQ(as_float(out[static_cast<std::size_t>(t * problem.width() + i)]) == 0, factor == 0)
          << "token " << t << ", element " << i;
    }
}

// A device orders its threads as it likes; the emulated one is told how.
void order_threads([[maybe_unused]] std::uint64_t seed) {
#ifdef DEMIST_EMULATED
  emu::options().seed = seed;
#endif
}

TEST_P(AnyPath, SameBitsInAnyOrderOfThreads) {
  const Problem<bf16> problem({"", 1, 200, 1, 80, 0.1f, Keys::documents});
  order_threads(0);
  const Result<bf16> first = run(problem, GetParam());
  for (const std::uint64_t seed : {1u, 2u}) {
    order_threads(seed);
    EXPECT_TRUE(run(problem, GetParam()) == first) << "order " << seed;
  }
}

TEST_P(AnyPath, SameBitsAloneAndInABatch) {
  const Problem<bf16> batch(kDocuments);
  const Result<bf16> all = run(batch, GetParam());
  Case single = kDocuments;
  single.rows = 1;
  for (std::uint64_t r = 0; r < 2; ++r) {
    const Problem<bf16> alone(single, r);
    const Result<bf16> one = run(alone, GetParam());
    EXPECT_EQ(std::memcmp(one.out.data(), &all.out[r * one.out.size()], one.out.size() * 2), 0);
    EXPECT_EQ(std::memcmp(one.dqkv.data(), &all.dqkv[r * one.dqkv.size()], one.dqkv.size() * 2), 0);
  }
}

// Tensor parallelism gives a rank some of the heads; `first_head` names their dropout rows.
TEST_P(AnyPath, SameBitsWhenHeadsAreSplit) {
  const Problem<bf16> whole(kDocuments);
  const Result<bf16> all = run(whole, GetParam());
  Case half = kDocuments;
  half.heads = 1;
  const std::int64_t width = 64;
  for (std::int64_t head = 0; head < 2; ++head) {
    Problem<bf16> own(half);
    own.op.first_head = head;
    const auto pick = [&](std::vector<bf16>& to, const std::vector<bf16>& from,
                          std::int64_t parts) {
      for (std::int64_t i = 0; i < own.tokens() * parts; ++i)
        std::copy_n(&from[static_cast<std::size_t>((i * 2 + head) * width)], width,
                    &to[static_cast<std::size_t>(i * width)]);
    };
    pick(own.qkv, whole.qkv, 3);
    pick(own.dout, whole.dout, 1);
    Result<bf16> expected = run(own, GetParam());
    const Result<bf16> one = expected;
    pick(expected.out, all.out, 1);
    pick(expected.dqkv, all.dqkv, 3);
    EXPECT_TRUE(one == expected) << "head " << head;
  }
}

TEST_P(AnyPath, RowsWithoutKeysGiveZeros) {
  const Problem<bf16> problem({"", 1, 128, 1, 64, 0.1f, Keys::empty_rows});
  const Result<bf16> result = run(problem, GetParam());
  for (std::size_t t = 0; t < 128; t += 3) {
    EXPECT_EQ(result.lse[t], 0.0f);
    for (std::size_t i = 0; i < 64; ++i) {
      EXPECT_EQ(as_float(result.out[t * 64 + i]), 0.0f);
      EXPECT_EQ(as_float(result.dqkv[t * 192 + i]), 0.0f);
    }
  }
}

TEST_P(AnyPath, NotANumberStaysVisible) {
  Problem<bf16> problem(kDocuments);
  problem.qkv[0] = bf16(std::numeric_limits<float>::quiet_NaN());
  const Result<bf16> result = run(problem, GetParam());
  EXPECT_TRUE(std::isnan(as_float(result.out[0])));
  EXPECT_TRUE(std::isnan(as_float(result.dqkv[0])));
}

TEST_P(AnyPath, LargeScoresDoNotOverflow) {
  Problem<bf16> problem({"", 1, 40, 1, 64, 0.0f, Keys::all});
  for (bf16& x : problem.qkv) x = bf16(as_float(x) * 50.0f);
  const oracle::AttentionOracle expected(problem.op, doubles(problem.qkv));
  EXPECT_LE(relative_error(doubles(run(problem, GetParam()).out), expected.out),
            kAttentionForward.bf16);
}

TEST(FusedAttentionLimits, AsksForTheRightShapes) {
  const Problem<bf16> problem(kDocuments);
  Attention op = problem.op;
  const auto qkv = matrix(problem.qkv.data(), problem.tokens(), 3 * problem.width());
  EXPECT_TRUE(fused_attention_supports(qkv, op));
  EXPECT_FALSE(fused_attention_supports(qkv.col_slice(1, 8), op));
  op.head_dim = 96;
  EXPECT_FALSE(fused_attention_supports(qkv, op));
  EXPECT_THROW(fused_attention_forward({}, {{}, {}, qkv}, op), InternalError);
  op.head_dim = 64;
  EXPECT_THROW(fused_attention_backward({}, {{}, {}, qkv, {}, {}}, op), InternalError);
}

TEST(FusedAttentionLimits, RefusesMoreSequencesThanAGridHas) {
  Attention op;
  op.heads = 1;
  op.head_dim = 64;
  op.grid = {65536, 1, {}};
  const ConstTensorView qkv{nullptr, DType::bf16, 65536, 192, 192};
  const TensorView out{nullptr, DType::bf16, 65536, 64, 64};
  EXPECT_THROW(fused_attention_forward({}, {out, {}, qkv}, op), ConfigError);
  EXPECT_THROW(fused_attention_backward({}, {out, out, qkv, out, {}}, op), ConfigError);
}

}  // namespace
}  // namespace demist::cuda::test
