// Connections on which a rank's own thread can be stuck, as its watchdog sees them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mutex>
#include <string>
#include <vector>

namespace demist {

// Called by another thread than the one that uses the connection.
class Connection {
 public:
  virtual ~Connection() = default;
  // Empty, or why nothing will come through any more. Returns at once.
  virtual std::string trouble() = 0;
  // Whatever waits for it, on the host or on a device, ends. What it was to bring is undefined.
  virtual void abort() = 0;
};

// All of one rank.
class Connections {
 public:
  void add(Connection& connection);
  void remove(Connection& connection);
  std::string trouble();  // of the first that has one
  void abort();

 private:
  std::mutex mutex_;
  std::vector<Connection*> all_;
};

}  // namespace demist
