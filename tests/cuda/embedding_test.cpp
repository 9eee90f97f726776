// SPDX-License-Identifier: Apache-2.0
#include <map>

#include "tests/cuda/pair.hpp"

namespace demist::cuda::test {
namespace {

class EmbeddingTest : public RowKernelTest {};
INSTANTIATE_TEST_SUITE_P(Device, EmbeddingTest, both_types(), dtype_name);

// A grouping on the host and on the device.
struct GroupedList {
  std::vector<std::int32_t> value, begin, order;
  DeviceList<std::int32_t> device_value, device_begin, device_order;

  explicit GroupedList(const std::vector<std::int32_t>& list) : GroupedList(places_of(list)) {}
  Grouping host() const { return {value, begin, order}; }
  Grouping device() const { return {device_value, device_begin, device_order}; }

 private:
  using Places = std::map<std::int32_t, std::vector<std::int32_t>>;
  static Places places_of(const std::vector<std::int32_t>& list) {
    Places places;
    for (std::size_t i = 0; i < list.size(); ++i)
      places[list[i]].push_back(static_cast<std::int32_t>(i));
    return places;
  }
  static std::vector<std::int32_t> values_of(const Places& places) {
    std::vector<std::int32_t> values;
    for (const auto& [id, list] : places) values.push_back(id);
    return values;
  }
  static std::vector<std::int32_t> begins_of(const Places& places) {
    std::vector<std::int32_t> begins = {0};
    for (const auto& [id, list] : places)
      begins.push_back(begins.back() + static_cast<std::int32_t>(list.size()));
    return begins;
  }
  static std::vector<std::int32_t> order_of(const Places& places) {
    std::vector<std::int32_t> order;
    for (const auto& [id, list] : places) order.insert(order.end(), list.begin(), list.end());
    return order;
  }
  explicit GroupedList(const Places& places)
      : value(values_of(places)),
        begin(begins_of(places)),
        order(order_of(places)),
        device_value(value),
        device_begin(begin),
        device_order(order) {}
};

// Ids of a vocabulary of 50, of which words [10, 40) are held here.
constexpr std::int64_t kWordBegin = 10, kWords = 30, kPositions = 24;
constexpr std::int32_t kPadding = 11;

struct Tokens {
  std::vector<std::int32_t> ids, positions;
  explicit Tokens(std::int64_t n) {
    for (std::int64_t t = 0; t < n; ++t) {
      ids.push_back(static_cast<std::int32_t>(t * t * 31 % 50));
      positions.push_back(static_cast<std::int32_t>(t % kPositions));
    }
  }
};

TEST_P(EmbeddingTest, ForwardMatchesTheCpu) {
  for (const auto& [n, d] : kShapes)
    for (const std::int64_t gap : kGaps)
      for (const bool word_only : {false, true}) {
        const Tokens tokens(n);
        const DeviceList<std::int32_t> ids(tokens.ids), positions(tokens.positions);
        Pair word(random_matrix(kWords, d, 1, dtype()), dtype(), gap);
        Pair position(random_matrix(kPositions, d, 2, dtype()), dtype(), gap);
        Pair type(random_matrix(1, d, 3, dtype()), dtype(), gap), x(n, d, dtype(), gap);
        cpu().embed_forward(x.host(), tokens.ids, tokens.positions, word.host(), kWordBegin,
                            position.host(), type.host(), word_only);
        embed_forward(launch_, x.device(), ids, positions, word.device(), kWordBegin,
                      position.device(), type.device(), word_only);
        EXPECT_LE(x.error(), kEmbedForward.of(dtype())) << n << " x " << d << ", gap " << gap;
      }
}

struct Gradients {
  Pair dword, dposition, dtype_row;
  Gradients(std::int64_t d, std::int64_t gap)
      : dword(random_matrix(kWords, d, 8, DType::f32), DType::f32, gap),
        dposition(kPositions, d, DType::f32, gap),
        dtype_row(1, d, DType::f32, 0) {}
};

void run_backward(Gradients& gradients, Pair& dx, const Grouping& ids, const Grouping& positions) {
  const TensorView view = dx.device();
  const Workspace work(embed_backward_workspace(view.rows, view.cols));
  embed_backward(work.launch(), gradients.dword.device(), kWordBegin, gradients.dposition.device(),
                 gradients.dtype_row.device(), view, ids, positions, kPadding);
}

// Groups of every length: ids of a mixture, one id that owns all, one that owns most, the padding
// alone, words that are held elsewhere; groups that begin and end where pieces do.
std::vector<std::vector<std::int32_t>> id_lists() {
  std::vector<std::vector<std::int32_t>> lists = {Tokens(1).ids, Tokens(300).ids};
  lists.emplace_back(200, 17);
  lists.emplace_back(70, kPadding);
  lists.emplace_back(40, 45);
  std::vector<std::int32_t> most(333, 20), exact(128, 12);
  for (std::size_t i = 0; i < most.size(); i += 5) most[i] = static_cast<std::int32_t>(i % 50);
  for (std::size_t i = 32; i < 64; ++i) exact[i] = 30;
  for (std::size_t i = 64; i < 128; ++i) exact[i] = 31;
  lists.push_back(most);
  lists.push_back(exact);
  return lists;
}

TEST_P(EmbeddingTest, BackwardMatchesTheCpu) {
  for (const std::vector<std::int32_t>& ids : id_lists())
    for (const std::int64_t d : {1, 7, 64, 80, 384})
      for (const std::int64_t gap : kGaps) {
        const auto n = static_cast<std::int64_t>(ids.size());
        const GroupedList words(ids), positions(Tokens(n).positions);
        Matrix gradient = random_matrix(n, d, 4, dtype());
        for (double& x : gradient.values) x = std::abs(x);  // the sum of one column is not near 0
        Pair dx(gradient, dtype(), gap);
        Gradients got(d, gap);
        cpu().embed_backward(got.dword.host(), kWordBegin, got.dposition.host(),
                             got.dtype_row.host(), dx.host(), words.host(), positions.host(),
                             kPadding);
        run_backward(got, dx, words.device(), positions.device());
        SCOPED_TRACE(testing::Message() << n << " x " << d << ", gap " << gap);
        EXPECT_LE(got.dword.error(), kEmbedBackward.of(dtype()));
        EXPECT_LE(got.dposition.error(), kEmbedBackward.of(dtype()));
        EXPECT_LE(got.dtype_row.error(), kEmbedBackward.of(dtype()));
      }
}

TEST_P(EmbeddingTest, NoTokens) {
  const GroupedList none(std::vector<std::int32_t>{});
  Pair dx(0, 16, dtype(), 0);
  Gradients got(16, 0);
  const std::vector<double> before = got.dword.values();
  run_backward(got, dx, none.device(), none.device());
  EXPECT_EQ(got.dword.values(), before);
  EXPECT_EQ(got.dposition.values(), std::vector<double>(kPositions * 16, 0.0));
  EXPECT_EQ(got.dtype_row.values(), std::vector<double>(16, 0.0));
}

TEST_P(EmbeddingTest, BackwardHasTheSameBitsAlignedOrNotAndInAnyOrderOfThreads) {
  const std::vector<std::int32_t> ids = id_lists()[5];
  const auto n = static_cast<std::int64_t>(ids.size());
  const GroupedList words(ids), positions(Tokens(n).positions);
  const auto compute = [&](std::int64_t gap) {
    Pair dx(random_matrix(n, 80, 4, dtype()), dtype(), gap);
    Gradients got(80, gap);
    run_backward(got, dx, words.device(), positions.device());
    std::vector<double> all = got.dword.values();
    std::ranges::copy(got.dposition.values(), std::back_inserter(all));
    return all;
  };
  expect_same_bits([&] { return compute(0); });
  EXPECT_EQ(compute(0), compute(3));
}

}  // namespace
}  // namespace demist::cuda::test
