// Texts between ranks that nobody waits for: they travel while the ranks compute.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/mpi.hpp"

namespace demist::mpi {

struct Letter {
  int from = 0;
  std::string text;
};

// post() and collect() return at once, whatever the others do; they are called by the thread that
// calls MPI. Letters from one rank arrive in the order in which it posted them.
class Mail {
 public:
  explicit Mail(const Comm& world);  // duplicates it: collective
  ~Mail();
  Mail(const Mail&) = delete;
  Mail& operator=(const Mail&) = delete;

  void post(std::string text, int to);  // to oneself too
  std::vector<Letter> collect();        // what has arrived whole since the last call
  // Letters may be left under way when this object ends. Else they must all have been collected: a
  // later communicator can have the number of one that is gone, and would take them for its own.
  void abandon();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace demist::mpi
