// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "core/mpi_handle.hpp"
#include "core/parallel_for.hpp"
#include "core/tensor.hpp"
#include "worker/parallel/communicator.hpp"
#include "worker/parallel/slices.hpp"

namespace demist {
namespace {

// Below this a sum costs one latency, not bandwidth: every rank gathers all terms and adds them.
constexpr std::size_t kSmallBytes = 4096;
constexpr std::int64_t kSumGrain = 8192;  // elements; a block of all ranks' terms stays in L2

template <class T>
MPI_Datatype datatype_of();
template <>
MPI_Datatype datatype_of<float>() {
  return MPI_FLOAT;
}
template <>
MPI_Datatype datatype_of<std::int64_t>() {
  return MPI_INT64_T;
}

inline float add(float a, float b) { return a + b; }
// Wraps like the hardware: partial sums of exact accumulators may pass the ends and come back.
inline std::int64_t add(std::int64_t a, std::int64_t b) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b));
}

// out[i] = terms[0][i] + terms[1][i] + ... in this order. out may be one of the terms.
template <class T>
void sum_in_order(T* out, const std::vector<const T*>& terms, std::int64_t count) {
  parallel_ranges(count, kSumGrain, [&](std::int64_t begin, std::int64_t end) {
    std::array<T, kSumGrain> block;  // out may be a term, so add beside it
    const auto count_here = static_cast<std::size_t>(end - begin);
    std::copy_n(terms[0] + begin, count_here, block.data());
    for (std::size_t r = 1; r < terms.size(); ++r) {
      const T* term = terms[r] + begin;
      for (std::size_t i = 0; i < count_here; ++i) block[i] = add(block[i], term[i]);
    }
    std::copy_n(block.data(), count_here, out + begin);
  });
}

// Elements of a buffer.
struct Slice {
  std::int64_t begin, count;
};

void round_slice(bf16* out, const float* sums, Slice slice) {
  parallel_ranges(slice.count, kSumGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = slice.begin + begin; i < slice.begin + end; ++i) out[i] = bf16(sums[i]);
  });
}

// Maps floats to integers of the same order, with every NaN above +infinity and -0 below +0.
std::int32_t ordered_key(float value) {
  if (std::isnan(value)) return std::numeric_limits<std::int32_t>::max();
  const auto bits = std::bit_cast<std::int32_t>(value);
  return bits >= 0 ? bits : bits ^ 0x7fffffff;
}
float from_ordered_key(std::int32_t key) {
  if (key == std::numeric_limits<std::int32_t>::max())
    return std::numeric_limits<float>::quiet_NaN();
  return std::bit_cast<float>(key >= 0 ? key : key ^ 0x7fffffff);
}

// Sums travel as slices between pairs of ranks, and the owner of a slice adds them by rank. Each
// rank sends and receives (P - 1) / P of the data, as in the best reduce-scatter (a node's network
// may carry more: cf. NcclCommunicator), but the order of additions is ours, which
// MPI_Reduce_scatter does not promise; nor does it bound its memory.
class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(const mpi::Comm& comm, MessageLimits limits)
      : comm_(comm.duplicate()),
        raw_(comm_.handle().raw),
        ranks_(static_cast<std::size_t>(comm_.size())),
        limits_(limits) {
    ensure(limits.message_bytes >= 8 && limits.message_bytes <= (std::size_t{1} << 30),
           "communicator: message limit outside [8 B, 1 GiB]");
  }

  int rank() const override { return comm_.rank(); }
  int size() const override { return comm_.size(); }
  void barrier() override { comm_.barrier(); }
  void all_reduce_sum(const TensorView& out, std::span<float> terms) override {
    check_sum(out, terms);
    const mpi::Call call(comm_, "all_reduce");
    const Slice sums = add(terms);
    if (out.dtype == DType::bf16)
      round_slice(out.as<bf16>(), terms.data(), sums);
    else if (out.data != terms.data())
      std::copy_n(terms.data() + sums.begin, sums.count, out.as<float>() + sums.begin);
    gather_sums(out.data, size_of(out.dtype), out.size(), sums);
  }
  void all_reduce_sum(std::span<std::int64_t> values) override {
    const mpi::Call call(comm_, "all_reduce");
    const Slice sums = add(values);
    gather_sums(values.data(), sizeof(std::int64_t), std::ssize(values), sums);
  }
  void reduce_scatter_sum(std::span<std::int64_t> out, std::span<const std::int64_t> in,
                          std::span<const std::int64_t> starts) override {
    reduce_scatter(out, in, starts);
  }
  void reduce_scatter_sum(std::span<float> out, std::span<const float> in,
                          std::span<const std::int64_t> starts) override {
    reduce_scatter(out, in, starts);
  }

  void all_reduce_max(std::span<float> values) override {
    const mpi::Call call(comm_, "all_reduce_max");
    const std::size_t most = limits_.message_bytes / sizeof(std::int32_t);
    for (std::size_t at = 0; at < values.size(); at += most) {
      const auto part = values.subspan(at, std::min(most, values.size() - at));
      std::vector<std::int32_t> keys(part.size());
      std::ranges::transform(part, keys.begin(), ordered_key);
      mpi::check(MPI_Allreduce(MPI_IN_PLACE, keys.data(), static_cast<int>(keys.size()),
                               MPI_INT32_T, MPI_MAX, raw_),
                 "MPI_Allreduce");
      std::ranges::transform(keys, part.begin(), from_ordered_key);
    }
  }

  void all_gather(std::span<std::byte> all, std::span<const std::int64_t> starts) override {
    const mpi::Call call(comm_, "all_gather");
    check_slices(starts, size(), all.size());
    if (all.size() > limits_.message_bytes) return gather_by_broadcast(all, starts);
    std::vector<int> counts(ranks_), at(ranks_);
    for (std::size_t r = 0; r < ranks_; ++r) {
      at[r] = static_cast<int>(starts[r]);
      counts[r] = static_cast<int>(starts[r + 1] - starts[r]);
    }
    mpi::check(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, all.data(), counts.data(),
                              at.data(), MPI_BYTE, raw_),
               "MPI_Allgatherv");
  }

  void broadcast(std::span<std::byte> bytes, int root) override {
    ensure(root >= 0 && root < size(), "communicator: broadcast root outside the group");
    for (std::size_t at = 0; at < bytes.size(); at += limits_.message_bytes)
      comm_.broadcast(bytes.subspan(at, std::min(limits_.message_bytes, bytes.size() - at)), root);
  }

 private:
  // MPI_Allgatherv counts in int; this way any total fits.
  void gather_by_broadcast(std::span<std::byte> all, std::span<const std::int64_t> starts) {
    for (std::size_t r = 0; r < ranks_; ++r)
      broadcast(all.subspan(static_cast<std::size_t>(starts[r]),
                            static_cast<std::size_t>(starts[r + 1] - starts[r])),
                static_cast<int>(r));
  }

  // Puts sums where the terms were: all of them when they are few, else those of this rank's slice.
  template <class T>
  Slice add(std::span<T> terms) {
    const auto total = static_cast<std::int64_t>(terms.size());
    if (terms.empty() || ranks_ == 1) return {0, total};
    if (terms.size_bytes() <= kSmallBytes) {
      add_all(terms);
      return {0, total};
    }
    const std::vector<std::int64_t> starts = even_slices(total, size());
    const auto me = static_cast<std::size_t>(rank());
    const Slice mine{starts[me], starts[me + 1] - starts[me]};
    // In place is safe: a rank's own slice is the one part of `in` that it sends to nobody.
    reduce_scatter<T>(
        terms.subspan(static_cast<std::size_t>(mine.begin), static_cast<std::size_t>(mine.count)),
        terms, starts);
    return mine;
  }

  void gather_sums(void* all, std::size_t element, std::int64_t total, Slice own) {
    if (own.count == total) return;  // everywhere
    all_gather({static_cast<std::byte*>(all), static_cast<std::size_t>(total) * element},
               in_bytes(even_slices(total, size()), element));
  }

  template <class T>
  void add_all(std::span<T> values) {
    const int count = static_cast<int>(values.size());
    std::vector<T> all(values.size() * ranks_);
    mpi::check(MPI_Allgather(values.data(), count, datatype_of<T>(), all.data(), count,
                             datatype_of<T>(), raw_),
               "MPI_Allgather");
    std::vector<const T*> terms(ranks_);
    for (std::size_t r = 0; r < ranks_; ++r) terms[r] = all.data() + r * values.size();
    sum_in_order(values.data(), terms, count);
  }

  template <class T>
  void reduce_scatter(std::span<T> out, std::span<const T> in,
                      std::span<const std::int64_t> starts) {
    check_slices(starts, size(), in.size());
    const mpi::Call call(comm_, "reduce_scatter");
    const auto me = static_cast<std::size_t>(rank());
    ensure(static_cast<std::int64_t>(out.size()) == starts[me + 1] - starts[me],
           "communicator: out must be this rank's slice");
    // Slices go in passes of `most` elements, so that staging is bounded whatever the size.
    const auto most =
        static_cast<std::int64_t>(std::clamp(limits_.staging_bytes / sizeof(T) / ranks_,
                                             std::size_t{1}, limits_.message_bytes / sizeof(T)));
    std::int64_t longest = 0;
    for (std::size_t r = 0; r < ranks_; ++r) longest = std::max(longest, starts[r + 1] - starts[r]);
    for (std::int64_t begin = 0; begin < longest; begin += most)
      reduce_scatter_pass<T>(out, in, starts, {begin, std::min(begin + most, longest)});
  }

  struct Window {
    std::int64_t begin, end;  // elements from the start of every rank's slice
  };

  // Exchanges and adds the part of every slice that lies in the window.
  template <class T>
  void reduce_scatter_pass(std::span<T> out, std::span<const T> in,
                           std::span<const std::int64_t> starts, Window window) {
    const auto part = [&](std::size_t r) {
      return std::max<std::int64_t>(0,
                                    std::min(window.end, starts[r + 1] - starts[r]) - window.begin);
    };
    const auto me = static_cast<std::size_t>(rank());
    const auto width = static_cast<std::size_t>(window.end - window.begin);
    T* staging = staging_for<T>(width * (ranks_ - 1));
    std::vector<const T*> terms(ranks_);
    terms[me] = in.data() + starts[me] + window.begin;
    requests_.clear();
    for (std::size_t k = 1; k < ranks_; ++k) {
      // At step k everybody sends to another rank: no rank is met by all at once.
      const std::size_t from = (me + ranks_ - k) % ranks_, to = (me + k) % ranks_;
      terms[from] = staging + (k - 1) * width;
      if (part(me) > 0)
        mpi::check(
            MPI_Irecv(staging + (k - 1) * width, static_cast<int>(part(me)), datatype_of<T>(),
                      static_cast<int>(from), kSliceTag, raw_, &requests_.emplace_back()),
            "MPI_Irecv");
      if (part(to) > 0)
        mpi::check(MPI_Isend(in.data() + starts[to] + window.begin, static_cast<int>(part(to)),
                             datatype_of<T>(), static_cast<int>(to), kSliceTag, raw_,
                             &requests_.emplace_back()),
                   "MPI_Isend");
    }
    mpi::check(
        MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE),
        "MPI_Waitall");
    if (part(me) > 0) sum_in_order(out.data() + window.begin, terms, part(me));
  }

  template <class T>
  T* staging_for(std::size_t count) {
    if (staging_.size() < count * sizeof(T)) staging_ = Buffer<std::byte>(count * sizeof(T));
    return reinterpret_cast<T*>(staging_.data());
  }

  static constexpr int kSliceTag = 1;
  mpi::Comm comm_;  // a duplicate: its messages match nobody else's
  MPI_Comm raw_;
  std::size_t ranks_;
  MessageLimits limits_;
  Buffer<std::byte> staging_;
  std::vector<MPI_Request> requests_;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(const mpi::Comm& comm, MessageLimits limits) {
  return std::make_unique<MpiCommunicator>(comm, limits);
}

}  // namespace demist
