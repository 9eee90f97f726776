// What the emulator tells the sanitizers about its fibers. The hooks are weak: one object file
// serves plain, AddressSanitizer and ThreadSanitizer builds. SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

extern "C" {
void __sanitizer_start_switch_fiber(void**, const void*, std::size_t) __attribute__((weak));
void __sanitizer_finish_switch_fiber(void*, const void**, std::size_t*) __attribute__((weak));
void __asan_unpoison_memory_region(const volatile void*, std::size_t) __attribute__((weak));
void* __tsan_get_current_fiber() __attribute__((weak));
void* __tsan_create_fiber(unsigned) __attribute__((weak));
void __tsan_destroy_fiber(void*) __attribute__((weak));
void __tsan_switch_to_fiber(void*, unsigned) __attribute__((weak));
void __tsan_acquire(void*) __attribute__((weak));
void __tsan_release(void*) __attribute__((weak));
void AnnotateIgnoreReadsBegin(const char*, int) __attribute__((weak));
void AnnotateIgnoreReadsEnd(const char*, int) __attribute__((weak));
void AnnotateIgnoreWritesBegin(const char*, int) __attribute__((weak));
void AnnotateIgnoreWritesEnd(const char*, int) __attribute__((weak));
}

namespace demist::emu {

inline bool asan_is_on() { return __asan_unpoison_memory_region != nullptr; }

// Everything before release() happens before what follows acquire() of the same token.
inline void acquire(void* token) {
  if (__tsan_acquire != nullptr) __tsan_acquire(token);
}
inline void release(void* token) {
  if (__tsan_release != nullptr) __tsan_release(token);
}

// Hides the emulator's own containers (heap and memcpy interceptors) from ThreadSanitizer, for the
// fiber that made it.
struct Untraced {
  Untraced() {
    if (AnnotateIgnoreReadsBegin == nullptr) return;
    AnnotateIgnoreReadsBegin("", 0);
    AnnotateIgnoreWritesBegin("", 0);
  }
  ~Untraced() {
    if (AnnotateIgnoreReadsEnd == nullptr) return;
    AnnotateIgnoreWritesEnd("", 0);
    AnnotateIgnoreReadsEnd("", 0);
  }
  Untraced(const Untraced&) = delete;
  Untraced& operator=(const Untraced&) = delete;
};

}  // namespace demist::emu
