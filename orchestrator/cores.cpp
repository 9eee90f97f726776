// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/cores.hpp"

#include <sched.h>

#include <algorithm>
#include <sstream>

#include "core/parallel_for.hpp"

namespace demist {
namespace {

// Before any pinning of ours: a hexadecimal digit for four cores.
std::string allowed_cores() {
  static const std::string text = [] {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    if (sched_getaffinity(0, sizeof cores, &cores) != 0) CPU_SET(0, &cores);
    std::string digits;
    for (int core = 0; core < CPU_SETSIZE; core += 4) {
      int digit = 0;
      for (int bit = 0; bit < 4; ++bit) digit |= CPU_ISSET(core + bit, &cores) != 0 ? 1 << bit : 0;
      digits += "0123456789abcdef"[digit];
    }
    return digits;
  }();
  return text;
}

int count_cores(const std::string& digits) {
  int count = 0;
  for (const char digit : digits)
    count +=
        __builtin_popcount(static_cast<unsigned>(digit <= '9' ? digit - '0' : digit - 'a' + 10));
  return std::max(1, count);
}

std::vector<std::string> gather_on_all(const mpi::Comm& comm, const std::string& mine) {
  std::string all;
  for (const std::string& text : comm.gather(mine, 0)) all += text + "\n";
  std::istringstream lines(comm.broadcast(all, 0));
  std::vector<std::string> texts;
  for (std::string line; std::getline(lines, line);) texts.push_back(line);
  return texts;
}

}  // namespace

CoreShare share_of(const std::vector<std::string>& allowed, int rank, int cores) {
  const std::string& mine = allowed.at(static_cast<std::size_t>(rank));
  CoreShare share;
  share.places = static_cast<int>(std::count(allowed.begin(), allowed.end(), mine));
  share.place = static_cast<int>(std::count(allowed.begin(), allowed.begin() + rank, mine));
  share.threads = std::max(1, cores / share.places);
  return share;
}

void use_share_of_cores(const mpi::Comm& world, int threads) {
  const mpi::Comm node = world.split_node();
  const std::string mine = allowed_cores();
  CoreShare share = share_of(gather_on_all(node, mine), node.rank(), count_cores(mine));
  if (threads > 0) share.threads = threads;
  use_threads(share.threads, share.place, share.places);
}

}  // namespace demist
