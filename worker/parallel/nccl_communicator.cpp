// SPDX-License-Identifier: Apache-2.0
#include "worker/parallel/nccl_communicator.hpp"

#include <nccl.h>

#include <algorithm>
#include <exception>
#include <vector>

#include "kernels/cuda/combine_terms.hpp"
#include "worker/parallel/nccl_link.hpp"
#include "worker/parallel/slices.hpp"

namespace demist {
namespace {

// Calls of NCCL that go on side by side. An error leaves no group open behind it.
class NcclGroup {
 public:
  explicit NcclGroup(const char* what) : what_(what) { check(ncclGroupStart(), what); }
  ~NcclGroup() {
    if (open_) ncclGroupEnd();
  }
  NcclGroup(const NcclGroup&) = delete;
  NcclGroup& operator=(const NcclGroup&) = delete;
  void end() {
    open_ = false;
    check(ncclGroupEnd(), what_);
  }

 private:
  const char* what_;
  bool open_ = true;
};

// Integers are summed by NCCL: exact in any order, so it may take rings, trees or switches. A
// reduce-scatter of S bytes moves S (P - 1) / P into and out of each of P GPUs, and as a ring
// enters a node once, about S / g through each card of a node with g GPUs and a card for each.
// Floats travel as slices between pairs of ranks, and the owner of a slice adds them by rank with a
// kernel of our own: the same bits on any topology, which NCCL's own sums of floats do not promise
// (cf. MpiCommunicator, which does the same). That moves the bytes of a ring through each GPU, but
// S (P - g) / P through each card, since nothing is added before it leaves its node.
class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(const mpi::Comm& comm, cuda::CudaBackend& backend, const NcclLimits& limits)
      : compute_(backend.stream()), link_(comm, limits.start), comm_(comm.duplicate()) {
    // The terms of all other ranks side by side.
    piece_bytes_ = device_piece_bytes(size(), limits.staging_bytes);
    staging_ = Buffer<std::byte>(piece_bytes_ * others(), backend.memory());
  }
  ~NcclCommunicator() override {
    // Where an error ends this rank, peers may never come to what is queued.
    if (std::uncaught_exceptions() > 0) link_.abort();
    cudaStreamSynchronize(compute_.get());  // what was queued still needs the communicator
    cudaStreamSynchronize(beside_.get());
  }
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  int rank() const override { return comm_.rank(); }
  int size() const override { return comm_.size(); }

  void barrier() override {
    stream_->wait();
    comm_.barrier();
  }
  void abort() override { link_.abort(); }
  void detach() override {
    border_.record(compute_);
    border_.hold(beside_);
    stream_ = &beside_;
  }
  void join() override {
    border_.record(beside_);
    border_.hold(compute_);
    stream_ = &compute_;
  }
  void all_reduce_sum(const TensorView& out, std::span<float> terms) override {
    check_sum(out, terms);
    all_reduce(out, terms, cuda::sum_terms);
  }
  void all_reduce_sum(std::span<std::int64_t> values) override {
    if (size() == 1 || values.empty()) return;
    group("NCCL sum", [&](ncclComm_t nccl) {
      check(ncclAllReduce(values.data(), values.data(), values.size(), ncclInt64, ncclSum, nccl,
                          stream_->get()),
            "NCCL sum");
    });
  }
  void all_reduce_max(std::span<float> values) override {
    all_reduce(vector_view(values), values, cuda::max_terms);
  }
  void reduce_scatter_sum(std::span<std::int64_t> out, std::span<const std::int64_t> in,
                          std::span<const std::int64_t> starts) override {
    check_slices(starts, size(), in.size());
    check_own(out.size(), starts);
    if (in.empty()) return;
    group("NCCL sum", [&](ncclComm_t nccl) {
      if (are_equal(starts))
        check(ncclReduceScatter(in.data(), out.data(), out.size(), ncclInt64, ncclSum, nccl,
                                stream_->get()),
              "NCCL sum");
      else
        reduce_to_owners(nccl, out, in, starts);
    });
  }
  void reduce_scatter_sum(std::span<float> out, std::span<const float> in,
                          std::span<const std::int64_t> starts) override {
    check_slices(starts, size(), in.size());
    check_own(out.size(), starts);
    reduce_scatter(vector_view(out), in, starts, cuda::sum_terms);
  }
  void all_gather(std::span<std::byte> all, std::span<const std::int64_t> starts) override {
    check_slices(starts, size(), all.size());
    if (all.empty()) return;
    group("NCCL all-gather", [&](ncclComm_t nccl) {
      if (are_equal(starts)) {
        const auto mine = static_cast<std::size_t>(rank());
        check(ncclAllGather(all.data() + starts[mine], all.data(),
                            static_cast<std::size_t>(starts[1]), ncclUint8, nccl, stream_->get()),
              "NCCL all-gather");
        return;
      }
      for (int r = 0; r < size(); ++r) {
        const auto at = static_cast<std::size_t>(r);
        std::byte* slice = all.data() + starts[at];
        const auto bytes = static_cast<std::size_t>(starts[at + 1] - starts[at]);
        if (bytes > 0)
          check(ncclBroadcast(slice, slice, bytes, ncclUint8, r, nccl, stream_->get()),
                "NCCL all-gather");
      }
    });
  }
  void broadcast(std::span<std::byte> bytes, int root) override {
    ensure(root >= 0 && root < size(), "communicator: no such root");
    if (bytes.empty()) return;
    group("NCCL broadcast", [&](ncclComm_t nccl) {
      check(ncclBroadcast(bytes.data(), bytes.data(), bytes.size(), ncclUint8, root, nccl,
                          stream_->get()),
            "NCCL broadcast");
    });
  }

 private:
  using Combine = void (*)(cudaStream_t, const TensorView& out, const cuda::FloatTerms&);

  std::size_t others() const { return static_cast<std::size_t>(std::max(1, size() - 1)); }

  void check_own(std::size_t out, std::span<const std::int64_t> starts) const {
    const auto mine = static_cast<std::size_t>(rank());
    ensure(static_cast<std::int64_t>(out) == starts[mine + 1] - starts[mine],
           "communicator: out is not as long as this rank's slice");
  }
  static bool are_equal(std::span<const std::int64_t> starts) {
    for (std::size_t r = 1; r < starts.size(); ++r)
      if (starts[r] - starts[r - 1] != starts[1]) return false;
    return true;
  }
  // ncclReduceScatter knows only equal slices. Those of a bucket that is not a multiple of tiles
  // and ranks (words, vectors) go side by side, each to its owner, without a copy into equal ones.
  void reduce_to_owners(ncclComm_t nccl, std::span<std::int64_t> out,
                        std::span<const std::int64_t> in, std::span<const std::int64_t> starts) {
    for (int r = 0; r < size(); ++r) {
      const auto at = static_cast<std::size_t>(r);
      const auto count = static_cast<std::size_t>(starts[at + 1] - starts[at]);
      if (count == 0) continue;
      check(ncclReduce(in.data() + starts[at], r == rank() ? out.data() : nullptr, count, ncclInt64,
                       ncclSum, r, nccl, stream_->get()),
            "NCCL sum");
    }
  }

  // calls(ncclComm_t) as one operation.
  template <class Calls>
  void group(const char* what, Calls&& calls) {
    const mpi::Call shown(comm_, what);
    link_.call(what, [&](ncclComm_t nccl) {
      NcclGroup together(what);
      calls(nccl);
      together.end();
    });
  }

  // The terms are cut into one slice a rank: combined by its owner, then gathered.
  void all_reduce(const TensorView& out, std::span<const float> terms, Combine combine) {
    if (size() == 1 && out.data == terms.data()) return;
    const TensorView all{out.data, out.dtype, 1, out.size(), out.size()};
    const std::vector<std::int64_t> starts = even_slices(all.cols, size());
    const auto mine = static_cast<std::size_t>(rank());
    reduce_scatter(all.col_slice(starts[mine], starts[mine + 1] - starts[mine]), terms, starts,
                   combine);
    const std::size_t element = size_of(out.dtype);
    all_gather({static_cast<std::byte*>(all.data), static_cast<std::size_t>(all.cols) * element},
               in_bytes(starts, element));
  }

  // out: one row.
  void reduce_scatter(const TensorView& out, std::span<const float> in,
                      std::span<const std::int64_t> starts, Combine combine) {
    const auto mine = static_cast<std::size_t>(rank());
    const auto piece = static_cast<std::int64_t>(piece_bytes_ / sizeof(float));
    std::int64_t longest = 0;
    for (std::size_t r = 0; r + 1 < starts.size(); ++r)
      longest = std::max(longest, starts[r + 1] - starts[r]);
    for (std::int64_t at = 0; at < longest; at += piece) {
      const auto count = [&](std::size_t r) {
        return std::clamp<std::int64_t>(starts[r + 1] - starts[r] - at, 0, piece);
      };
      exchange(in, starts, at, count);
      const float* staged = reinterpret_cast<const float*>(staging_.data());
      const cuda::FloatTerms terms{.own = in.data() + starts[mine] + at,
                                   .others = staged,
                                   .stride = piece,
                                   .count = size() - 1,
                                   .rank = rank()};
      if (count(mine) > 0) combine(stream_->get(), out.col_slice(at, count(mine)), terms);
    }
  }

  // Sends piece `at` of every other rank's slice and receives theirs of mine, in rank order.
  template <class Count>
  void exchange(std::span<const float> in, std::span<const std::int64_t> starts, std::int64_t at,
                Count&& count) {
    const auto mine = static_cast<std::size_t>(rank());
    group("NCCL sum", [&](ncclComm_t nccl) {
      std::byte* into = staging_.data();
      for (int r = 0; r < size(); ++r) {
        if (r == rank()) continue;
        const auto to = static_cast<std::size_t>(r);
        if (count(to) > 0)
          check(ncclSend(in.data() + starts[to] + at, static_cast<std::size_t>(count(to)),
                         ncclFloat32, r, nccl, stream_->get()),
                "NCCL send");
        if (count(mine) > 0)
          check(ncclRecv(into, static_cast<std::size_t>(count(mine)), ncclFloat32, r, nccl,
                         stream_->get()),
                "NCCL receive");
        into += piece_bytes_;
      }
    });
  }

  const cuda::Stream& compute_;
  // Of collectives between detach() and join(). They start although the kernels of the computation
  // would fill the device: who comes late here holds up all ranks.
  cuda::Stream beside_{cuda::Stream::Kind::urgent};
  const cuda::Stream* stream_ = &compute_;
  cuda::Event border_;
  NcclLink link_;  // goes before its streams
  mpi::Comm comm_;
  std::size_t piece_bytes_ = 0;
  Buffer<std::byte> staging_;
};

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(const mpi::Comm& comm,
                                                     cuda::CudaBackend& backend,
                                                     const NcclLimits& limits) {
  return std::make_unique<NcclCommunicator>(comm, backend, limits);
}

}  // namespace demist
