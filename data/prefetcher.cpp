// SPDX-License-Identifier: Apache-2.0
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "core/error.hpp"
#include "core/parallel_for.hpp"
#include "data/source.hpp"

namespace demist::data {

MicroBatch make_whole(const Source& source, std::int64_t step, std::int32_t index) {
  MicroBatch batch = source.make(step, index);
  batch.id_groups = group_tokens(batch.ids);
  batch.position_groups = group_tokens(batch.positions);
  return batch;
}

struct Prefetcher::Impl {
  struct Result {
    MicroBatch batch;
    std::exception_ptr error;
  };

  Impl(const Source& from, std::size_t at_most)
      : source(from), depth(at_most), helper([this] { work(); }) {}

  ~Impl() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
    }
    changed.notify_all();
    helper.join();
  }

  void work() {
    unpin_this_thread();
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [&] { return stopping || (!wanted.empty() && ready.size() < depth); });
      if (stopping) return;
      const auto [step, index] = wanted.front();
      wanted.pop_front();
      lock.unlock();
      Result result;
      try {
        result.batch = make_whole(source, step, index);
      } catch (...) {
        result.error = std::current_exception();
      }
      lock.lock();
      ready.push_back(std::move(result));
      changed.notify_all();
    }
  }

  const Source& source;
  const std::size_t depth;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::pair<std::int64_t, std::int32_t>> wanted;
  std::deque<Result> ready;
  std::size_t outstanding = 0;  // announced, not yet taken
  bool stopping = false;
  std::thread helper;  // last: it uses everything above
};

Prefetcher::Prefetcher(const Source& source, std::size_t depth) {
  ensure(depth > 0, "Prefetcher: depth is 0");
  impl_ = std::make_unique<Impl>(source, depth);
}

Prefetcher::~Prefetcher() = default;

void Prefetcher::announce(std::int64_t step, std::int32_t index) {
  const std::lock_guard lock(impl_->mutex);
  impl_->wanted.emplace_back(step, index);
  ++impl_->outstanding;
  impl_->changed.notify_all();
}

MicroBatch Prefetcher::take() {
  std::unique_lock lock(impl_->mutex);
  ensure(impl_->outstanding > 0, "Prefetcher: take() without an announced micro-batch");
  impl_->changed.wait(lock, [&] { return !impl_->ready.empty(); });
  Impl::Result result = std::move(impl_->ready.front());
  impl_->ready.pop_front();
  --impl_->outstanding;
  impl_->changed.notify_all();
  lock.unlock();
  if (result.error) std::rethrow_exception(result.error);
  return std::move(result.batch);
}

}  // namespace demist::data
