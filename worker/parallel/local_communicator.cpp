// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "worker/parallel/communicator.hpp"
#include "worker/parallel/slices.hpp"

namespace demist {
namespace {

// One rank: every sum is its own only term. Keeps the checks, so that a wrong size is found here.
class LocalCommunicator final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void barrier() override {}
  void all_reduce_sum(const TensorView& out, std::span<float> terms) override {
    check_sum(out, terms);
    if (out.dtype == DType::bf16)
      std::ranges::transform(terms, out.as<bf16>(), [](float x) { return bf16(x); });
    else if (out.data != terms.data())
      std::ranges::copy(terms, out.as<float>());
  }
  void all_reduce_sum(std::span<std::int64_t>) override {}
  void all_reduce_max(std::span<float>) override {}
  void reduce_scatter_sum(std::span<std::int64_t> out, std::span<const std::int64_t> in,
                          std::span<const std::int64_t> starts) override {
    copy(out, in, starts);
  }
  void reduce_scatter_sum(std::span<float> out, std::span<const float> in,
                          std::span<const std::int64_t> starts) override {
    copy(out, in, starts);
  }
  void all_gather(std::span<std::byte> all, std::span<const std::int64_t> starts) override {
    check_slices(starts, 1, all.size());
  }
  void broadcast(std::span<std::byte>, int root) override {
    ensure(root == 0, "communicator: broadcast root outside the group");
  }

 private:
  template <class T>
  static void copy(std::span<T> out, std::span<const T> in, std::span<const std::int64_t> starts) {
    check_slices(starts, 1, in.size());
    ensure(out.size() == in.size(), "communicator: out must be this rank's slice");
    if (out.data() != in.data()) std::ranges::copy(in, out.begin());
  }
};

}  // namespace

std::unique_ptr<Communicator> make_local_communicator() {
  return std::make_unique<LocalCommunicator>();
}

}  // namespace demist
