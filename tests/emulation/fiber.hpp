// A coroutine with a stack of its own, known to AddressSanitizer and ThreadSanitizer.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

namespace demist::emu {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next resume() calls `body`, which must end with leave(). What the fiber did before is gone.
  void restart(void (*body)());
  // From the main stack: runs the fiber until it calls suspend() or leave().
  void resume();
  // From the fiber: back to the main stack.
  void suspend();
  [[noreturn]] void leave();
  // To be called first in `body`.
  static void entered();

 private:
  void to_main(void** fake_stack);

  char* stack_ = nullptr;
  char* top_ = nullptr;  // where the first frame begins
  void* stack_pointer_ = nullptr;
  void* fake_stack_ = nullptr;  // AddressSanitizer's
  void* tsan_ = nullptr;
};

}  // namespace demist::emu
