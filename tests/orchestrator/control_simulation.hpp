// Thousands of ranks under a virtual clock, which exchange letters by the protocol's own code
// (ControlNode, Coordinator, SpeedMeter), without MPI and without a model.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <coroutine>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/philox.hpp"
#include "orchestrator/balance.hpp"
#include "orchestrator/control_node.hpp"
#include "orchestrator/control_wire.hpp"

namespace demist::test {

struct SimulatedCosts {      // seconds
  double latency = 2e-6;     // of a letter between two ranks
  double per_byte = 1e-10;   // 10 GB/s
  double letter_cpu = 1e-6;  // to send a letter or to take one; assumed
  double byte_cpu = 1e-9;
  double micro_batch = 0.05;
  int looks = 12;  // for letters, in a micro-batch: one a layer
};

struct SimulatedRun {
  int ranks = 1, most_children = ControlTree::kChildren;
  CoordinatorConfig config;
  double noise = 0.05;  // of a rank's step
  int slow_rank = -1;   // from step `slow_from` on, so many times slower
  std::int64_t slow_from = 0, slow_to = 0;
  double times = 3;
  std::int64_t exhausted_step = -1;  // once
  int stopping_rank = -1;            // asks at the end of
  std::int64_t stop_step = -1;       // this step
  SimulatedCosts costs;
};

struct SimulatedResult {
  std::vector<std::string> decisions;  // rank 0's messages, whole
  struct Step {                        // rank 0's part
    int bytes = 0, letters = 0;
    double cpu = 0;     // seconds in the protocol
    double behind = 0;  // from the last rank's report to rank 0's having all
  };
  std::vector<Step> steps;
  double waited =
      0;         // seconds, in all: the longest that a rank stood still for a letter after a step
  int path = 0;  // letters from the farthest rank to rank 0, one after another
};

class Simulation {
 public:
  explicit Simulation(const SimulatedRun& run) : run_(run) {
    result_.steps.emplace_back();
    for (int r = 0; r < run.ranks; ++r) ranks_.push_back(std::make_unique<Rank>(*this, r));
    coordinator_ = std::make_unique<Coordinator>(run.config);
    for (const auto& rank : ranks_) {
      int path = 0;
      for (ControlTree at = rank->tree; at.rank > 0; at.rank = at.parent()) ++path;
      result_.path = std::max(result_.path, path);
    }
  }

  SimulatedResult run() {
    for (const auto& rank : ranks_) rank->loop = loop(*rank);
    while (!events_.empty()) {
      std::ranges::pop_heap(events_, std::greater());
      const Event event = events_.back();
      events_.pop_back();
      if (event.resumes)
        event.resumes.resume();
      else
        deliver(event);
    }
    for (const auto& rank : ranks_) {
      if (rank->loop.problem()) std::rethrow_exception(rank->loop.problem());
      ensure(rank->at_end, "a rank waits for a letter that nobody sends");
      result_.waited = std::max(result_.waited, rank->waited);
    }
    return std::move(result_);
  }

 private:
  class Loop {  // a coroutine that runs at once and is gone with this object
   public:
    struct promise_type {
      std::exception_ptr problem;
      Loop get_return_object() {
        return Loop(std::coroutine_handle<promise_type>::from_promise(*this));
      }
      std::suspend_never initial_suspend() noexcept { return {}; }
      std::suspend_always final_suspend() noexcept { return {}; }
      void return_void() {}
      void unhandled_exception() { problem = std::current_exception(); }
    };
    Loop() = default;
    explicit Loop(std::coroutine_handle<promise_type> handle) : handle_(handle) {}
    Loop(Loop&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Loop& operator=(Loop&& other) noexcept {
      std::swap(handle_, other.handle_);
      return *this;
    }
    ~Loop() {
      if (handle_) handle_.destroy();
    }
    std::exception_ptr problem() const { return handle_.promise().problem; }

   private:
    std::coroutine_handle<promise_type> handle_;
  };

  struct Rank {
    Rank(Simulation& simulation, int number)
        : tree{number, simulation.run_.ranks, simulation.run_.most_children},
          node(tree, [this, &simulation](int to, const std::string& letter) {
            simulation.send(*this, to, letter);
          }) {}
    ControlTree tree;
    ControlNode node;
    SpeedMeter meter;
    double now = 0, waited = 0;
    std::deque<std::pair<int, std::string>> arrived;
    std::coroutine_handle<> waiting;  // for a letter
    bool after_step = false;          // a step, in which letters can travel, was carried out last
    bool at_end = false;
    Loop loop;
  };

  // There are tens of millions: a letter stays where it is.
  struct Event {
    double time;
    std::int64_t number;              // of two at one time the first made comes first
    std::coroutine_handle<> resumes;  // else a letter arrives
    std::size_t letter = 0;
    bool operator>(const Event& other) const {
      return time != other.time ? time > other.time : number > other.number;
    }
  };
  struct Letter {
    int from, to;
    std::string text;
  };
  void at(double time, std::coroutine_handle<> resumes, std::size_t letter = 0) {
    events_.push_back({time, count_++, resumes, letter});
    std::ranges::push_heap(events_, std::greater());
  }
  void deliver(const Event& event) {
    Letter& letter = letters_[event.letter];
    Rank& rank = *ranks_[static_cast<std::size_t>(letter.to)];
    rank.arrived.emplace_back(letter.from, std::move(letter.text));
    if (!rank.waiting) return;
    rank.now = std::max(rank.now, event.time);
    std::exchange(rank.waiting, nullptr).resume();
  }

  void count(Rank& rank, std::size_t bytes) {
    const double cpu = run_.costs.letter_cpu + run_.costs.byte_cpu * static_cast<double>(bytes);
    rank.now += cpu;
    if (rank.tree.rank != 0) return;
    SimulatedResult::Step& step = result_.steps.back();
    step.bytes += static_cast<int>(bytes);
    ++step.letters;
    step.cpu += cpu;
  }
  void send(Rank& from, int to, const std::string& letter) {
    count(from, letter.size());
    const double arrives =
        from.now + run_.costs.latency + run_.costs.per_byte * static_cast<double>(letter.size());
    at(arrives, nullptr, letters_.size());
    letters_.push_back({from.tree.rank, to, letter});
  }
  void take_letters(Rank& rank) {
    const bool had_reported = rank.node.has_reported();
    while (!rank.arrived.empty()) {
      const auto [from, letter] = std::move(rank.arrived.front());
      rank.arrived.pop_front();
      count(rank, letter.size());
      rank.node.take(from, letter);
    }
    if (rank.tree.rank == 0 && !had_reported && rank.node.has_reported())
      result_.steps.back().behind = rank.now - reported_;
  }

  auto letter(Rank& rank) {
    struct Awaitable {
      Rank& rank;
      double since;
      bool await_ready() const { return !rank.arrived.empty(); }
      void await_suspend(std::coroutine_handle<> handle) { rank.waiting = handle; }
      void await_resume() const {
        if (rank.after_step) rank.waited += rank.now - since;
      }
    };
    return Awaitable{rank, rank.now};
  }
  auto compute(Rank& rank, double seconds) {
    struct Awaitable {
      Simulation& simulation;
      Rank& rank;
      double until;
      bool await_ready() const { return false; }
      void await_suspend(std::coroutine_handle<> handle) { simulation.at(until, handle); }
      void await_resume() const { rank.now = until; }
    };
    return Awaitable{*this, rank, rank.now + seconds};
  }
  // The sums of a step: nobody has them before the last one has added its part.
  auto together(Rank& rank) {
    struct Awaitable {
      Simulation& simulation;
      Rank& rank;
      bool await_ready() const { return false; }
      void await_suspend(std::coroutine_handle<> handle) { simulation.arrive(rank, handle); }
      void await_resume() const {}
    };
    return Awaitable{*this, rank};
  }
  void arrive(Rank& rank, std::coroutine_handle<> handle) {
    gate_.emplace_back(&rank, handle);
    gate_time_ = std::max(gate_time_, rank.now);
    if (gate_.size() < ranks_.size()) return;
    for (const auto& [waiting, resumed] : std::exchange(gate_, {})) {
      waiting->now = gate_time_;
      at(gate_time_, resumed);
    }
  }

  // As StepLoop of orchestrator/train_stage.cpp.
  Loop loop(Rank& rank) {
    bool held = false;
    post(rank);
    while (!rank.node.has_message()) {
      co_await letter(rank);
      take_letters(rank);
    }
    ControlMessage current = rank.node.next_message();
    if (!std::holds_alternative<Stop>(current)) post(rank);
    while (!std::holds_alternative<Stop>(current)) {
      while (!rank.node.has_message()) {
        co_await letter(rank);
        take_letters(rank);
      }
      ControlMessage ahead = rank.node.next_message();
      if (!std::holds_alternative<Stop>(ahead)) post(rank);
      if (std::holds_alternative<Rollback>(current)) held = false;
      bool settle = std::holds_alternative<Settle>(current);
      const auto* plan = std::get_if<StepPlan>(&current);
      if (plan != nullptr && !held) {
        const auto own = static_cast<std::int32_t>(
            std::ranges::count(plan->owner, rank.tree.rank / run_.config.ranks_per_group));
        const double seconds = own * micro_batch(rank.tree.rank, plan->step);
        for (int look = 0; look < own * run_.costs.looks; ++look) {
          co_await compute(rank, seconds / (own * run_.costs.looks));
          take_letters(rank);
        }
        co_await together(rank);
        rank.after_step = true;
        while (!rank.node.has_reported()) {
          co_await letter(rank);
          take_letters(rank);
        }
        hear(rank);
        if (rank.tree.rank == 0) result_.steps.emplace_back();
        report(rank, *plan, seconds, own);
        held = settle = plan->step == run_.exhausted_step && rollbacks_ == 0;
      }
      rank.after_step = plan != nullptr && !held && !settle;
      if (settle && (plan != nullptr || !held)) {
        while (!rank.node.has_reported()) {
          co_await letter(rank);
          take_letters(rank);
        }
        hear(rank);
      }
      current = std::move(ahead);
    }
    rank.at_end = true;
  }

  void post(Rank& rank) {
    if (rank.tree.rank != 0) return;
    const ControlMessage message = coordinator_->next();
    if (std::holds_alternative<Rollback>(message)) ++rollbacks_;
    result_.decisions.push_back(encode(message));
    rank.node.post(message);
  }
  void report(Rank& rank, const StepPlan& plan, double seconds, std::int32_t own) {
    Report mine;
    mine.step = plan.step;
    mine.exhausted = plan.step == run_.exhausted_step && rollbacks_ == 0;
    mine.stop_requested = rank.tree.rank == run_.stopping_rank && plan.step == run_.stop_step;
    if (const auto speed = rank.meter.add(seconds, own)) mine.speeds = {{rank.tree.rank, *speed}};
    reported_ = std::max(reported_, rank.now);
    rank.node.report(mine);
  }
  void hear(Rank& rank) {
    if (const auto report = rank.node.next_report()) coordinator_->receive(*report);
  }
  // What a micro-batch takes a rank in a step: the same in every run.
  double micro_batch(int rank, std::int64_t step) const {
    const Philox4 draw =
        philox(17, static_cast<std::uint32_t>(rank), static_cast<std::uint32_t>(step), 0, 0);
    const double radius = std::sqrt(-2 * std::log((draw.v[0] + 1.0) / 4294967297.0));
    const double normal = radius * std::cos(2 * 3.14159265358979 * draw.v[1] / 4294967296.0);
    const bool slow = rank == run_.slow_rank && step >= run_.slow_from && step < run_.slow_to;
    return run_.costs.micro_batch * (slow ? run_.times : 1) * std::exp(run_.noise * normal);
  }

  SimulatedRun run_;
  SimulatedResult result_;
  std::vector<std::unique_ptr<Rank>> ranks_;
  std::unique_ptr<Coordinator> coordinator_;
  std::vector<Event> events_;   // a heap
  std::deque<Letter> letters_;  // all that were sent; those that have arrived are empty
  std::int64_t count_ = 0;
  std::vector<std::pair<Rank*, std::coroutine_handle<>>> gate_;
  double gate_time_ = 0, reported_ = 0;
  int rollbacks_ = 0;
};

}  // namespace demist::test
