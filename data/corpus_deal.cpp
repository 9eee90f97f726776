// SPDX-License-Identifier: Apache-2.0
#include "data/corpus_deal.hpp"

#include <algorithm>
#include <chrono>
#include <optional>
#include <thread>

#include "core/error.hpp"
#include "data/build_progress.hpp"

namespace demist::data {
namespace {

// Messages of a worker: kAsk, kFailed, or kKept / kBuilt followed by a RangeResult as JSON.
// Messages of rank 0: the number of a range, or kStop.
constexpr int kToRankZero = 1;
constexpr int kToWorker = 2;
constexpr char kAsk = 'a', kFailed = 'f', kKept = 'k', kBuilt = 'b';
constexpr std::string_view kStop = "stop";
constexpr auto kIdlePause = std::chrono::milliseconds(1);

class Dealer {
 public:
  Dealer(const mpi::Comm& comm, const BuildPlan& plan)
      : comm_(comm), plan_(plan), progress_(plan), working_(comm.size() - 1) {
    dealt_.results.resize(plan.ranges.size());
    for (const InputRange& range : plan.ranges)
      (range.pipe ? own_ : shared_).push_back(range.number);
    std::ranges::reverse(shared_);  // dealt from the back
  }

  Dealt run(const RangeBuilder& builder) {
    const mpi::Outcome mine = mpi::attempt([&] { work(builder); });
    stopped_ = stopped_ || mine.code != ExitCode::done;
    while (working_ > 0) {
      answer();
      std::this_thread::sleep_for(kIdlePause);
    }
    progress_.end();
    mpi::agree(comm_, mine, "build corpus");
    return std::move(dealt_);
  }

 private:
  void work(const RangeBuilder& builder) {
    while (const auto number = take(true)) {
      const InputRange& range = plan_.ranges[*number];
      if (auto result = builder.finished(range)) {
        store(std::move(*result), true);
      } else {
        store(builder.run(range,
                          [&](std::uint64_t bytes) {
                            progress_.show(bytes);
                            answer();
                          }),
              false);
      }
      answer();
    }
  }

  std::optional<std::uint64_t> take(bool rank_zero) {
    std::vector<std::uint64_t>& from = rank_zero && !own_.empty() ? own_ : shared_;
    if (stopped_ || from.empty()) return std::nullopt;
    const std::uint64_t number = from.back();
    from.pop_back();
    return number;
  }

  void store(RangeResult result, bool kept) {
    progress_.add(result, kept);
    if (kept) ++dealt_.kept;
    ensure(result.range < dealt_.results.size(), "corpus build: a result of an unknown range");
    RangeResult& place = dealt_.results[result.range];
    place = std::move(result);
  }

  void answer() {
    while (working_ > 0 && comm_.has_message(mpi::Comm::any_source, kToRankZero)) {
      const auto [rank, message] = comm_.receive(mpi::Comm::any_source, kToRankZero);
      handle(rank, message);
    }
    progress_.show(0);
  }

  void handle(int rank, const std::string& message) {
    switch (message.front()) {
      case kAsk: {
        const auto number = take(false);
        if (!number) --working_;
        comm_.send(number ? std::to_string(*number) : std::string(kStop), rank, kToWorker);
        break;
      }
      case kFailed:
        stopped_ = true;
        --working_;
        break;
      default:
        store(parse_range_result(message.substr(1), "rank " + std::to_string(rank)),
              message.front() == kKept);
    }
  }

  const mpi::Comm& comm_;
  const BuildPlan& plan_;
  BuildProgress progress_;
  int working_;                              // other ranks that were not told to stop
  bool stopped_ = false;                     // a rank failed
  std::vector<std::uint64_t> own_, shared_;  // ranges still to be dealt
  Dealt dealt_;
};

void work_for_rank_zero(const mpi::Comm& comm, const BuildPlan& plan, const RangeBuilder& builder) {
  for (;;) {
    comm.send(std::string(1, kAsk), 0, kToRankZero);
    const std::string reply = comm.receive(0, kToWorker).second;
    if (reply == kStop) return;
    const InputRange& range = plan.ranges.at(std::stoull(reply));
    if (const auto kept = builder.finished(range))
      comm.send(kKept + to_json(*kept), 0, kToRankZero);
    else
      comm.send(kBuilt + to_json(builder.run(range, [](std::uint64_t) {})), 0, kToRankZero);
  }
}

}  // namespace

Dealt deal_ranges(const mpi::Comm& comm, const BuildPlan& plan, const RangeBuilder& builder) {
  if (comm.rank() == 0) return Dealer(comm, plan).run(builder);
  const mpi::Outcome mine = mpi::attempt([&] { work_for_rank_zero(comm, plan, builder); });
  if (mine.code != ExitCode::done) comm.send(std::string(1, kFailed), 0, kToRankZero);
  mpi::agree(comm, mine, "build corpus");
  return {};
}

}  // namespace demist::data
