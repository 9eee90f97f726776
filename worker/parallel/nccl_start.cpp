// SPDX-License-Identifier: Apache-2.0
#include "worker/parallel/nccl_start.hpp"

#include <algorithm>
#include <thread>

namespace demist {
namespace {

constexpr std::chrono::milliseconds kPoll{1};
// For letters of ranks that came at about the same time, or were told to stop.
constexpr std::chrono::milliseconds kGrace{500};
// What a rank says when its part is still under way at the limit.
const std::string kLate = "late";

[[noreturn]] void give_up(const std::string& why) {
  throw AgreedError(ExitCode::environment, "NCCL start: " + why);
}

std::string seconds_text(std::chrono::milliseconds limit) {
  return std::to_string((limit.count() + 999) / 1000) + " s";
}

std::string ranks_text(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank" : "ranks";
  for (const int rank : ranks) text.append(" ").append(std::to_string(rank));
  return text;
}

bool is_failure(const std::string& said) { return !said.empty() && said != kLate; }

}  // namespace

Start::Start(const mpi::Comm& comm, std::chrono::milliseconds limit)
    : comm_(comm),
      limit_(limit),
      began_(Clock::now()),
      ranks_(static_cast<std::size_t>(comm.size())) {
  if (comm.rank() > 0) comm.send("", 0, kHereTag);
}

bool Start::comes(int from, int tag, Clock::time_point deadline) const {
  while (!comm_.has_message(from, tag)) {
    if (Clock::now() > deadline) return false;
    std::this_thread::sleep_for(kPoll);
  }
  return true;
}

std::string Start::share(const std::function<std::string()>& make) const {
  if (comm_.rank() > 0) {
    if (!comes(0, kGiftTag, began_ + limit_))
      give_up("rank " + std::to_string(comm_.rank_in_job(0)) + " did not come within " +
              seconds_text(limit_) + "; look at its log and at nvidia-smi on its machine");
    return comm_.receive(0, kGiftTag).second;
  }
  const std::string gift = make();
  for (int r = 1; r < comm_.size(); ++r) comm_.send(gift, r, kGiftTag);
  return gift;
}

void Start::finish(const std::function<std::optional<std::string>()>& poll) {
  const std::string mine = run(poll);
  std::string found;
  if (comm_.rank() == 0) {
    ranks_[0] = {true, mine};
    found = verdict();
  } else {
    comm_.send(mine, 0, kSaidTag);
    found = comes(0, kVerdictTag, Clock::now() + limit_ + 2 * kGrace)
                ? comm_.receive(0, kVerdictTag).second
                : "rank " + std::to_string(comm_.rank_in_job(0)) + " fell silent";
  }
  if (!found.empty()) give_up(found);
}

// Also ends when it is known that others failed.
std::string Start::run(const std::function<std::optional<std::string>()>& poll) {
  while (Clock::now() < began_ + limit_) {
    if (std::optional<std::string> ended = poll()) return *ended;
    if (comm_.rank() == 0) hear();
    if (comm_.rank() == 0 ? failed() : comm_.has_message(0, kVerdictTag)) break;
    std::this_thread::sleep_for(kPoll);
  }
  return kLate;
}

void Start::hear() {
  for (int r = 1; r < comm_.size(); ++r) {
    Rank& rank = ranks_[static_cast<std::size_t>(r)];
    if (!rank.here && comm_.has_message(r, kHereTag)) {
      comm_.receive(r, kHereTag);
      rank.here = true;
    }
    if (rank.here && !rank.said && comm_.has_message(r, kSaidTag))
      rank.said = comm_.receive(r, kSaidTag).second;
  }
}

bool Start::failed() const {
  return std::any_of(ranks_.begin(), ranks_.end(),
                     [](const Rank& rank) { return rank.said && is_failure(*rank.said); });
}

// The first rank hears from all that they are here and how it ended, and tells those.
std::string Start::verdict() {
  Clock::time_point deadline = began_ + limit_ + kGrace;
  const auto complete = [&] {
    return std::all_of(ranks_.begin(), ranks_.end(),
                       [](const Rank& rank) { return rank.said.has_value(); });
  };
  for (hear(); !complete() && Clock::now() < deadline; hear()) {
    if (failed()) deadline = std::min(deadline, Clock::now() + kGrace);
    std::this_thread::sleep_for(kPoll);
  }
  std::vector<int> absent, late;
  std::string found;
  for (int r = 0; r < comm_.size(); ++r) {
    const Rank& rank = ranks_[static_cast<std::size_t>(r)];
    const std::string said = rank.said.value_or(kLate);
    if (!rank.here) absent.push_back(comm_.rank_in_job(r));
    if (rank.here && said == kLate) late.push_back(comm_.rank_in_job(r));
    if (found.empty() && is_failure(said))
      found = "rank " + std::to_string(comm_.rank_in_job(r)) + ": " + said;
  }
  if (found.empty() && !absent.empty())
    found = ranks_text(absent) + " did not come within " + seconds_text(limit_) +
            "; look at their logs and at nvidia-smi on their machines";
  else if (found.empty() && !late.empty())
    found = ranks_text(late) + " did not get through within " + seconds_text(limit_) +
            "; NCCL_SOCKET_IFNAME chooses the network, NCCL_DEBUG=INFO shows more";
  for (int r = 1; r < comm_.size(); ++r)
    if (ranks_[static_cast<std::size_t>(r)].here) comm_.send(found, r, kVerdictTag);
  return found;
}

}  // namespace demist
