// The one conformance suite, on device memory and NCCL.
// SPDX-License-Identifier: Apache-2.0
#include "tests/support/communicator_conformance.hpp"
#include "tests/support/mpi_main.hpp"
#include "worker/parallel/nccl_communicator.hpp"

namespace demist {
namespace {

// Copies host spans to the device for a communicator of device memory, and back.
class StagedCommunicator final : public Communicator {
 public:
  // detached: collectives run beside the backend's stream, which joins them before the copy back.
  StagedCommunicator(cuda::CudaBackend& backend, std::unique_ptr<Communicator> device,
                     bool detached = false)
      : backend_(backend), device_(std::move(device)), detached_(detached) {}
  int rank() const override { return device_->rank(); }
  int size() const override { return device_->size(); }
  void barrier() override { device_->barrier(); }
  void all_reduce_sum(const TensorView& out, std::span<float> terms) override {
    if (out.data == terms.data())
      return in_place(terms, [&](auto span) { device_->all_reduce_sum(span); });
    Buffer<std::byte> sums(static_cast<std::size_t>(out.size()) * size_of(out.dtype),
                           backend_.memory());
    TensorView there = out;
    there.data = sums.data();
    in_place(terms, [&](auto span) { device_->all_reduce_sum(there, span); });
    backend_.download(out.data, sums.data(), sums.bytes());
  }
  void all_reduce_sum(std::span<std::int64_t> values) override {
    in_place(values, [&](auto span) { device_->all_reduce_sum(span); });
  }
  void all_reduce_max(std::span<float> values) override {
    in_place(values, [&](auto span) { device_->all_reduce_max(span); });
  }
  void reduce_scatter_sum(std::span<std::int64_t> out, std::span<const std::int64_t> in,
                          std::span<const std::int64_t> starts) override {
    scatter(out, in, starts);
  }
  void reduce_scatter_sum(std::span<float> out, std::span<const float> in,
                          std::span<const std::int64_t> starts) override {
    scatter(out, in, starts);
  }
  void all_gather(std::span<std::byte> all, std::span<const std::int64_t> starts) override {
    in_place(all, [&](auto span) { device_->all_gather(span, starts); });
  }
  void broadcast(std::span<std::byte> bytes, int root) override {
    in_place(bytes, [&](auto span) { device_->broadcast(span, root); });
  }

 private:
  template <class T, class Body>
  void in_place(std::span<T> values, Body&& body) {
    Buffer<T> copy(values.size(), backend_.memory());
    backend_.upload(copy.data(), values.data(), values.size_bytes());
    if (detached_) device_->detach();
    body(copy.span());
    if (detached_) device_->join();
    backend_.download(values.data(), copy.data(), values.size_bytes());
  }
  // `out` inside `in` stays inside it.
  template <class T>
  void scatter(std::span<T> out, std::span<const T> in, std::span<const std::int64_t> starts) {
    Buffer<T> whole(in.size(), backend_.memory()), own(out.size(), backend_.memory());
    backend_.upload(whole.data(), in.data(), in.size_bytes());
    const bool inside = !in.empty() && out.data() >= in.data() && out.data() < &in.back() + 1;
    const auto to =
        inside ? whole.span().subspan(static_cast<std::size_t>(out.data() - in.data()), out.size())
               : own.span();
    if (detached_) device_->detach();
    device_->reduce_scatter_sum(to, std::span<const T>(whole.span()), starts);
    if (detached_) device_->join();
    backend_.download(out.data(), to.data(), out.size_bytes());
  }

  cuda::CudaBackend& backend_;
  std::unique_ptr<Communicator> device_;
  bool detached_;
};

TEST(NcclCommunicator, Conforms) {
  cuda::CudaBackend backend;
  StagedCommunicator comm(backend, make_nccl_communicator(test::world(), backend));
  test::conforms(comm);
}

TEST(NcclCommunicator, ConformsBesideTheBackend) {
  cuda::CudaBackend backend;
  StagedCommunicator comm(backend, make_nccl_communicator(test::world(), backend), true);
  test::conforms(comm);
}

// Each detach() waits for what was queued before it, and one join() for them all.
TEST(NcclCommunicator, DetachedSumsFollowTheirInputs) {
  cuda::CudaBackend backend;
  const auto comm = make_nccl_communicator(test::world(), backend);
  constexpr std::size_t kSize = 5000;
  const std::vector<float> mine(kSize, static_cast<float>(comm->rank() + 1));
  Buffer<float> input(kSize, backend.memory()), first(kSize, backend.memory()),
      second(kSize, backend.memory()), meanwhile(kSize, backend.memory());
  backend.upload(input.data(), mine.data(), input.bytes());
  backend.copy(first.data(), input.data(), input.bytes());
  comm->detach();
  comm->all_reduce_sum(first.span());
  backend.add(vector_view(second.span()), vector_view(input.span()), vector_view(input.span()));
  comm->detach();
  comm->all_reduce_sum(second.span());
  backend.copy(meanwhile.data(), input.data(), input.bytes());
  comm->join();
  backend.add(vector_view(second.span()), vector_view(second.span()), vector_view(first.span()));
  std::vector<float> result(kSize), untouched(kSize);
  backend.download(result.data(), second.data(), second.bytes());
  backend.download(untouched.data(), meanwhile.data(), meanwhile.bytes());
  const int ranks = comm->size();
  const auto sum = static_cast<float>(ranks * (ranks + 1) / 2);
  EXPECT_EQ(result, std::vector<float>(kSize, 3 * sum));
  EXPECT_EQ(untouched, mine);
}

// Little staging: sums take many passes.
TEST(NcclCommunicator, ConformsWhenSumsAreCut) {
  cuda::CudaBackend backend;
  StagedCommunicator comm(
      backend, make_nccl_communicator(test::world(), backend, {.staging_bytes = 100000}));
  test::conforms(comm);
}

}  // namespace
}  // namespace demist

int main(int argc, char** argv) { return demist::test::run_mpi_tests(argc, argv); }
