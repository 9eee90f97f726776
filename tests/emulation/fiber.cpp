// Compile without -fsanitize=thread: the switching code is not the program it watches.
// SPDX-License-Identifier: Apache-2.0
#include "tests/emulation/fiber.hpp"

#include <sys/mman.h>

#include <new>

#include "tests/emulation/sanitizers.hpp"

// Saves the registers that a call preserves (System V x86-64 ABI), swaps stacks, restores.
extern "C" void demist_emulation_switch(void** save, void* to);
asm(".text\n.globl demist_emulation_switch\n.type demist_emulation_switch,@function\n"
    "demist_emulation_switch:\n"
    "push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15\n"
    "mov %rsp,(%rdi); mov %rsi,%rsp\n"
    "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp; ret\n"
    ".size demist_emulation_switch,.-demist_emulation_switch\n");

namespace demist::emu {
namespace {

constexpr std::size_t kStackBytes = 256 * 1024, kPage = 4096, kCacheLine = 64;
// Stacks that all began at one place of their pages would share a few lines of the cache.
constexpr std::size_t kPlaces = kPage / kCacheLine;
std::size_t fibers_made = 0;

// The stack that resumes fibers.
struct MainStack {
  void* stack_pointer = nullptr;
  void* fake_stack = nullptr;
  void* tsan = nullptr;
  const void* bottom = nullptr;
  std::size_t size = 0;
} main_stack;

}  // namespace

Fiber::Fiber() {
  void* base = mmap(nullptr, kStackBytes + kPage, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) throw std::bad_alloc();
  mprotect(base, kPage, PROT_NONE);  // a stack overflow faults
  stack_ = static_cast<char*>(base) + kPage;
  top_ = stack_ + kStackBytes - fibers_made++ % kPlaces * kCacheLine;
  if (__tsan_create_fiber != nullptr) tsan_ = __tsan_create_fiber(0);
}

Fiber::~Fiber() {
  if (__tsan_destroy_fiber != nullptr) __tsan_destroy_fiber(tsan_);
  munmap(stack_ - kPage, kStackBytes + kPage);
}

void Fiber::restart(void (*body)()) {
  if (__asan_unpoison_memory_region != nullptr) __asan_unpoison_memory_region(stack_, kStackBytes);
  void** top = reinterpret_cast<void**>(top_);
  *--top = nullptr;  // keeps the stack aligned at the call of `body`
  *--top = reinterpret_cast<void*>(body);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  stack_pointer_ = top;
  fake_stack_ = nullptr;
}

void Fiber::resume() {
  if (__tsan_get_current_fiber != nullptr) main_stack.tsan = __tsan_get_current_fiber();
  if (__sanitizer_start_switch_fiber != nullptr)
    __sanitizer_start_switch_fiber(&main_stack.fake_stack, stack_, kStackBytes);
  // 1: the switch itself orders nothing.
  if (__tsan_switch_to_fiber != nullptr) __tsan_switch_to_fiber(tsan_, 1);
  demist_emulation_switch(&main_stack.stack_pointer, stack_pointer_);
  if (__sanitizer_finish_switch_fiber != nullptr)
    __sanitizer_finish_switch_fiber(main_stack.fake_stack, nullptr, nullptr);
}

void Fiber::entered() {
  if (__sanitizer_finish_switch_fiber != nullptr)
    __sanitizer_finish_switch_fiber(nullptr, &main_stack.bottom, &main_stack.size);
}

void Fiber::to_main(void** fake_stack) {
  if (__sanitizer_start_switch_fiber != nullptr)
    __sanitizer_start_switch_fiber(fake_stack, main_stack.bottom, main_stack.size);
  if (__tsan_switch_to_fiber != nullptr) __tsan_switch_to_fiber(main_stack.tsan, 1);
  demist_emulation_switch(&stack_pointer_, main_stack.stack_pointer);
  if (__sanitizer_finish_switch_fiber != nullptr)
    __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
}

void Fiber::suspend() { to_main(&fake_stack_); }

void Fiber::leave() {
  to_main(nullptr);  // null: AddressSanitizer frees the fiber's fake stack
  __builtin_unreachable();
}

}  // namespace demist::emu
