// SPDX-License-Identifier: Apache-2.0
#include "core/mpi_mail.hpp"

#include <deque>
#include <limits>
#include <utility>

#include "core/mpi_handle.hpp"

namespace demist::mpi {

struct Mail::Impl {
  explicit Impl(const Comm& world) : comm(world.duplicate()) {}

  struct Transfer {
    Letter letter;
    MPI_Request request = MPI_REQUEST_NULL;

    bool done() {
      if (request == MPI_REQUEST_NULL) return true;
      int finished = 0;
      check(MPI_Test(&request, &finished, MPI_STATUS_IGNORE), "MPI_Test");
      return finished != 0;
    }
  };

  void receive_what_has_come() {
    if (comm.size() == 1) return;
    const MPI_Comm raw = comm.handle().raw;
    for (;;) {
      int waiting = 0, count = 0;
      MPI_Status status;
      check(MPI_Iprobe(MPI_ANY_SOURCE, kTag, raw, &waiting, &status), "MPI_Iprobe");
      if (waiting == 0) return;
      check(MPI_Get_count(&status, MPI_BYTE, &count), "MPI_Get_count");
      Transfer& next = coming.emplace_back();
      next.letter = {status.MPI_SOURCE, std::string(static_cast<std::size_t>(count), '\0')};
      check(MPI_Irecv(next.letter.text.data(), count, MPI_BYTE, status.MPI_SOURCE, kTag, raw,
                      &next.request),
            "MPI_Irecv");
    }
  }
  void forget_what_has_gone() {
    while (!going.empty() && going.front().done()) going.pop_front();
  }

  static constexpr int kTag = 0;
  bool abandoned = false;
  Comm comm;
  std::deque<Transfer> going, coming;  // deques: MPI holds addresses of their elements
};

Mail::Mail(const Comm& world) : impl_(std::make_unique<Impl>(world)) {}

Mail::~Mail() {
  const Outcome last_try = attempt([this] { impl_->forget_what_has_gone(); });
  const bool quiet = last_try.message.empty() && impl_->going.empty() && impl_->coming.empty();
  // What is lost here is little, and lost only when a job fails: MPI may still touch the buffers.
  if (impl_->abandoned || !quiet) (void)impl_.release();
}

void Mail::abandon() { impl_->abandoned = true; }

void Mail::post(std::string text, int to) {
  Impl& m = *impl_;
  if (text.size() > static_cast<std::size_t>(std::numeric_limits<int>::max()))
    throw InternalError("MPI message longer than 2^31 elements");
  if (to == m.comm.rank()) {
    m.coming.push_back({{to, std::move(text)}, MPI_REQUEST_NULL});
    return;
  }
  Impl::Transfer& next = m.going.emplace_back();
  next.letter = {to, std::move(text)};
  check(MPI_Isend(next.letter.text.data(), static_cast<int>(next.letter.text.size()), MPI_BYTE, to,
                  Impl::kTag, m.comm.handle().raw, &next.request),
        "MPI_Isend");
}

std::vector<Letter> Mail::collect() {
  Impl& m = *impl_;
  m.forget_what_has_gone();
  m.receive_what_has_come();
  std::vector<Letter> letters;
  while (!m.coming.empty() && m.coming.front().done()) {
    letters.push_back(std::move(m.coming.front().letter));
    m.coming.pop_front();
  }
  return letters;
}

}  // namespace demist::mpi
