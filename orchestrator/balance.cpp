// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/balance.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <queue>
#include <tuple>
#include <utility>

namespace demist {
namespace {

// A change of speed is worth a word when a few steps show a large one, or many a small one.
struct Notice {
  std::size_t steps;  // their median
  double change;
};
constexpr Notice kQuick{5, 0.25};  // two steps that stand out, as the very first, do not count
constexpr Notice kSteady{25, 0.08};
constexpr double kAlike = 0.10;          // groups whose speed differs by less
constexpr double kGain = 0.05;           // a shorter step that is worth other shares
constexpr double kProbeCost = 0.02;      // of the time
constexpr double kProbeEveryMost = 512;  // steps

bool is_near(double value, double reference, double share) {
  return std::abs(value - reference) <= share * reference;
}

}  // namespace

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

std::optional<float> SpeedMeter::add(double seconds, std::int32_t micro_batches) {
  if (micro_batches == 0) {
    rested_ = true;
    return std::nullopt;
  }
  // What was measured before a rest says nothing of now.
  if (rested_) recent_.clear();
  rested_ = false;
  recent_.push_back(seconds / micro_batches);
  if (recent_.size() > kSteady.steps) recent_.pop_front();
  if (told_ == 0 && recent_.size() < kQuick.steps) return std::nullopt;
  const auto quick = std::min(recent_.size(), kQuick.steps);
  const double now = median({recent_.end() - static_cast<std::ptrdiff_t>(quick), recent_.end()});
  if (now > 0 && !is_near(now, told_, kQuick.change)) {
    recent_.erase(recent_.begin(), recent_.end() - static_cast<std::ptrdiff_t>(quick));
    return told_ = static_cast<float>(now);
  }
  if (recent_.size() < kSteady.steps) return std::nullopt;
  const double steady = median({recent_.begin(), recent_.end()});
  if (is_near(steady, told_, kSteady.change)) return std::nullopt;
  return told_ = static_cast<float>(steady);
}

std::vector<std::int32_t> share_out(std::span<const double> seconds, std::int32_t micro_batches) {
  double speed = 0;
  for (const double s : seconds) speed += 1 / s;
  // Parts of micro-batches would let all end at once, and nobody has less than the whole ones of
  // that. The others go, one by one, to whoever will be done with one more first; if that is a draw
  // to the slower one, for who has work is measured.
  const double ideal = micro_batches / speed * (1 - 1e-9);
  std::vector<std::int32_t> shares;
  std::int32_t left = micro_batches;
  using Next = std::tuple<double, double, std::size_t>;  // done, -seconds, group
  std::priority_queue<Next, std::vector<Next>, std::greater<>> next;
  for (std::size_t g = 0; g < seconds.size(); ++g) {
    shares.push_back(static_cast<std::int32_t>(ideal / seconds[g]));
    left -= shares[g];
    next.emplace((shares[g] + 1) * seconds[g], -seconds[g], g);
  }
  for (; left > 0; --left) {
    const std::size_t g = std::get<2>(next.top());
    next.pop();
    ++shares[g];
    next.emplace((shares[g] + 1) * seconds[g], -seconds[g], g);
  }
  return shares;
}

double makespan(std::span<const std::int32_t> shares, std::span<const double> seconds) {
  double longest = 0;
  for (std::size_t g = 0; g < shares.size(); ++g)
    longest = std::max(longest, shares[g] * seconds[g]);
  return longest;
}

std::vector<std::int32_t> owners_of(std::span<const std::int32_t> shares) {
  std::vector<std::int32_t> owner;
  for (std::size_t g = 0; g < shares.size(); ++g)
    owner.insert(owner.end(), static_cast<std::size_t>(shares[g]), static_cast<std::int32_t>(g));
  return owner;
}

Balancer::Balancer(std::int32_t micro_batches, int groups, int ranks_per_group)
    : micro_batches_(micro_batches),
      ranks_per_group_(static_cast<std::size_t>(ranks_per_group)),
      rank_seconds_(static_cast<std::size_t>(groups) * ranks_per_group_),
      shares_(share_out(std::vector<double>(static_cast<std::size_t>(groups), 1), micro_batches)) {}

void Balancer::hear(int rank, double seconds) {
  rank_seconds_.at(static_cast<std::size_t>(rank)) = seconds;
  heard_ = true;
}

std::vector<double> Balancer::seconds() const {
  std::vector<double> seconds, known;
  for (std::size_t g = 0; g < shares_.size(); ++g) {
    const auto first = rank_seconds_.begin() + static_cast<std::ptrdiff_t>(g * ranks_per_group_);
    seconds.push_back(
        *std::max_element(first, first + static_cast<std::ptrdiff_t>(ranks_per_group_)));
    if (seconds.back() > 0) known.push_back(seconds.back());
  }
  if (known.empty()) return {};
  const double typical = median(known);
  for (double& s : seconds)
    if (s == 0 || is_near(s, typical, kAlike)) s = typical;
  return seconds;
}

std::vector<std::int32_t> Balancer::next() {
  if (std::exchange(heard_, false)) balance();
  if (resting_.empty() || --probe_in_ > 0) return shares_;
  plan_probe();
  return probe();
}

bool Balancer::has_changed() { return std::exchange(changed_, false); }

void Balancer::balance() {
  const std::vector<double> now = seconds();
  const std::vector<std::int32_t> best = share_out(now, micro_batches_);
  if (makespan(best, now) > (1 - kGain) * makespan(shares_, now)) return;
  shares_ = best;
  changed_ = true;
  plan_probe();
}

// Groups without a micro-batch whose speed is known: they had one once, and it was taken away.
void Balancer::plan_probe() {
  const std::vector<double> now = seconds();
  double slowest = 0;
  resting_.clear();
  for (std::size_t g = 0; g < shares_.size(); ++g) {
    if (shares_[g] > 0 || rank_seconds_[g * ranks_per_group_] == 0) continue;
    resting_.push_back(g);
    slowest = std::max(slowest, now[g]);
  }
  if (resting_.empty()) return;
  const double cost = slowest / makespan(shares_, now) - 1;  // of a step
  probe_in_ = static_cast<int>(std::clamp(std::ceil(cost / kProbeCost), 1.0, kProbeEveryMost));
}

// One micro-batch for every group that rests, from those who have most.
std::vector<std::int32_t> Balancer::probe() {
  std::vector<std::int32_t> shares = shares_;
  for (const std::size_t g : resting_) {
    const auto most = std::ranges::max_element(shares);
    --*most;
    ++shares[g];
  }
  return shares;
}

}  // namespace demist
