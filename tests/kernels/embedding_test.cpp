// SPDX-License-Identifier: Apache-2.0
#include "data/micro_batch.hpp"
#include "tests/support/kernel_fixture.hpp"

namespace demist::test {
namespace {

constexpr std::int64_t kVocabulary = 13, kPositions = 9;
constexpr std::int32_t kPadding = 1;

struct Problem {
  Matrix word, position, type, dx;
  std::vector<std::int32_t> ids, positions;
  data::TokenGroups by_id, by_position;

  Problem(std::int64_t n, std::int64_t d, DType dtype)
      : word(random_matrix(kVocabulary, d, 1, dtype)),
        position(random_matrix(kPositions, d, 2, dtype)),
        type(random_matrix(1, d, 3, dtype)),
        dx(random_matrix(n, d, 4, dtype)) {
    for (std::int64_t t = 0; t < n; ++t) {
      ids.push_back(static_cast<std::int32_t>(t % 3 == 0 ? 7 : t * 5 % kVocabulary));
      positions.push_back(ids.back() == kPadding ? kPadding : static_cast<std::int32_t>(2 + t % 7));
    }
    by_id = data::group_tokens(ids);
    by_position = data::group_tokens(positions);
  }
  Grouping id_groups() const { return {by_id.value, by_id.begin, by_id.order}; }
  Grouping position_groups() const {
    return {by_position.value, by_position.begin, by_position.order};
  }
  std::size_t tokens() const { return ids.size(); }
};

class EmbeddingTest : public KernelTest {};
INSTANTIATE_TEST_SUITE_P(Cpu, EmbeddingTest, every_kernel(), kernel_name);

// The part of the vocabulary that one rank of several would hold.
struct Part {
  std::int64_t begin, rows;
  bool holds(std::int32_t id) const { return id >= begin && id < begin + rows; }
};
const Part kParts[] = {{0, kVocabulary}, {0, 6}, {6, 7}};
const std::pair<std::int64_t, std::int64_t> kShapes[] = {{1, 1}, {9, 8}, {30, 80}, {100, 384}};

TEST_P(EmbeddingTest, ForwardAddsThreeTables) {
  for (const auto& [n, d] : kShapes)
    for (const Part& part : kParts)
      for (const bool word_only : {false, true}) {
        const Problem in(n, d, dtype());
        Operand word(in.word, dtype()), position(in.position, dtype()), type(in.type, dtype());
        Operand x(n, d, dtype());
        backend().embed_forward(x.view(), in.ids, in.positions,
                                word.view().row_slice(part.begin, part.rows), part.begin,
                                position.view(), type.view(), word_only);
        Matrix want(n, d);
        for (std::int64_t t = 0; t < n; ++t)
          for (std::int64_t c = 0; c < d; ++c) {
            const std::int32_t id = in.ids[static_cast<std::size_t>(t)];
            if (part.holds(id)) want(t, c) += in.word(id, c);
            if (!word_only)
              want(t, c) +=
                  in.position(in.positions[static_cast<std::size_t>(t)], c) + in.type(0, c);
          }
        EXPECT_LE(relative_error(x.values(), want.as_stored(dtype()).values),
                  kEmbedding.of(dtype()));
        EXPECT_TRUE(x.gaps_are_intact());
      }
}

TEST_P(EmbeddingTest, BackwardSumsTheTokensOfEachRow) {
  for (const auto& [n, d] : kShapes)
    for (const Part& part : kParts) {
      const Problem in(n, d, dtype());
      const Matrix before = random_matrix(part.rows, d, 8, DType::f32);
      Operand dx(in.dx, dtype()), dword(before, DType::f32);
      Operand dposition(kPositions, d, DType::f32), dtype_row(1, d, DType::f32);
      backend().embed_backward(dword.view(), part.begin, dposition.view(), dtype_row.view(),
                               dx.view(), in.id_groups(), in.position_groups(), kPadding);
      Matrix want_word = before, want_position(kPositions, d), want_type(1, d);
      for (std::size_t t = 0; t < in.tokens(); ++t)
        for (std::int64_t c = 0; c < d; ++c) {
          const double g = in.dx(static_cast<std::int64_t>(t), c);
          if (part.holds(in.ids[t]) && in.ids[t] != kPadding)
            want_word(in.ids[t] - part.begin, c) += g;
          if (in.positions[t] != kPadding) want_position(in.positions[t], c) += g;
          want_type(0, c) += g;
        }
      EXPECT_LE(relative_error(dword.values(), want_word.values), kEmbedding.f32);
      EXPECT_LE(relative_error(dposition.values(), want_position.values), kEmbedding.f32);
      EXPECT_LE(relative_error(dtype_row.values(), want_type.values), kEmbedding.f32);
      EXPECT_TRUE(dword.gaps_are_intact() && dposition.gaps_are_intact());
    }
}

// The oracle is linear: forward and backward are transposes of each other.
TEST_P(EmbeddingTest, BackwardIsTheTransposeOfForward) {
  const Problem in(30, 80, DType::f32);
  Operand word(in.word, DType::f32), position(in.position, DType::f32), type(in.type, DType::f32);
  Operand x(30, 80, DType::f32), dx(in.dx, DType::f32);
  backend().embed_forward(x.view(), in.ids, in.positions, word.view(), 0, position.view(),
                          type.view(), false);
  Operand dword(Matrix(kVocabulary, 80), DType::f32);
  Operand dposition(kPositions, 80, DType::f32), dtype_row(1, 80, DType::f32);
  backend().embed_backward(dword.view(), 0, dposition.view(), dtype_row.view(), dx.view(),
                           in.id_groups(), in.position_groups(), -1);
  const double through_tables = dot(dword.values(), in.word.values) +
                                dot(dposition.values(), in.position.values) +
                                dot(dtype_row.values(), in.type.values);
  EXPECT_NEAR(dot(x.values(), in.dx.values), through_tables, 1e-3);
}

TEST_P(EmbeddingTest, SameBitsForOneAndTwoThreads) {
  const Problem in(700, 200, dtype());
  expect_same_for_threads([&] {
    Operand dx(in.dx, dtype()), dword(Matrix(kVocabulary, 200), DType::f32);
    Operand dposition(kPositions, 200, DType::f32), dtype_row(1, 200, DType::f32);
    backend().embed_backward(dword.view(), 0, dposition.view(), dtype_row.view(), dx.view(),
                             in.id_groups(), in.position_groups(), kPadding);
    std::vector<double> all;
    for (Operand* output : {&dword, &dposition, &dtype_row})
      for (const double value : output->values()) all.push_back(value);
    return all;
  });
}

}  // namespace
}  // namespace demist::test
