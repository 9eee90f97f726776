// How ranks come together for something that each of them starts and that may hang on any of them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/mpi.hpp"

namespace demist {

// Tags of a start's letters: what the first rank gives, that a rank is there, what it says of its
// part, and what came of it all.
inline constexpr int kGiftTag = 9101, kHereTag = 9102, kSaidTag = 9103, kVerdictTag = 9104;

// By letters to and from the first rank, not by collectives, in which one that does not come would
// hold up the others for ever. No rank waits longer than about twice `limit`.
class Start {
 public:
  Start(const mpi::Comm& comm, std::chrono::milliseconds limit);
  // What the first rank makes, on all ranks.
  std::string share(const std::function<std::string()>& make) const;
  // `poll` until it returns something: "" for success, else what is wrong. Then, or at the limit,
  // ranks agree: all succeed, or those that came throw one AgreedError, which names those that did
  // not come, or did not get through.
  void finish(const std::function<std::optional<std::string>()>& poll);

 private:
  using Clock = std::chrono::steady_clock;
  // What the first rank knows of the others.
  struct Rank {
    bool here = false;
    std::optional<std::string> said;  // how its part ended
  };
  bool comes(int from, int tag, Clock::time_point deadline) const;
  std::string run(const std::function<std::optional<std::string>()>& poll);
  void hear();
  bool failed() const;
  std::string verdict();

  const mpi::Comm& comm_;
  const std::chrono::milliseconds limit_;
  const Clock::time_point began_;
  std::vector<Rank> ranks_;
};

}  // namespace demist
