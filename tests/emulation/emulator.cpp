// Compile without -fsanitize=thread: the emulator's bookkeeping is no device memory.
// SPDX-License-Identifier: Apache-2.0
#include "tests/emulation/emulator.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "tests/emulation/counters.hpp"
#include "tests/emulation/fiber.hpp"
#include "tests/emulation/sanitizers.hpp"
#include "tests/emulation/streams.hpp"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace demist::emu {
namespace {

constexpr std::size_t kWarp = 32;

struct Copy {
  char* to;
  const void* from;
  std::size_t bytes;
  bool valid;
};

// Thrown through a kernel whose block has failed.
struct Stop {};

struct Thread {
  Fiber fiber;
  bool inside = false;  // the kernel, possibly waiting
  uint3 index{};
  unsigned number = 0;
  std::vector<Copy> open_group;
  std::vector<std::vector<Copy>> groups;
};

// Lanes that wait for others of their mask.
struct Rendezvous {
  explicit Rendezvous(const Operation& first) : operation(first) {}
  Operation operation;
  unsigned arrived = 0;
  char* token = nullptr;
  std::array<void*, kWarp> in, out;
};

struct Warp {
  std::vector<Rendezvous> pending;
  unsigned lanes = 0;
  unsigned generation = 0;
  char tokens[2] = {};  // see Machine
};

struct SharedBlock {
  void* data;
  std::size_t bytes;
  bool used;
};

// One kernel runs at a time, so there is one machine.
struct Machine {
  std::vector<std::unique_ptr<Thread>> threads;  // grows to the largest block so far
  std::vector<Warp> warps;
  std::vector<unsigned> ready;
  std::size_t next_ready = 0;  // in index order: the front of `ready`
  std::vector<SharedBlock> shared;
  std::size_t size = 0, at_barrier = 0, exited = 0;
  Location barrier_where;
  Thread* current = nullptr;
  void* dynamic = nullptr;
  std::size_t dynamic_bytes = 0;
  const std::function<void()>* kernel = nullptr;
  std::string error;
  std::mt19937_64 random;
  // What TSan sees. A thread must not learn from those that have left the barrier and come to the
  // next one already: two generations of barriers take turns. Likewise the start is not the end.
  char start_token = 0, end_token = 0, barrier_tokens[2] = {};
  unsigned barrier_generation = 0;
} machine;

std::string triple(unsigned x, unsigned y, unsigned z) {
  return "(" + std::to_string(x) + "," + std::to_string(y) + "," + std::to_string(z) + ")";
}

std::string name_of(const Thread& thread) {
  return "thread " + triple(thread.index.x, thread.index.y, thread.index.z);
}

// NaN as float and as bf16, -1 as an integer.
void poison(void* data, std::size_t bytes) { std::memset(data, 0xff, bytes); }

void finish_copies() {
  if (machine.current->open_group.empty() && machine.current->groups.empty()) return;
  copy_commit();
  copy_wait(0);
}

void run_thread() {
  Fiber::entered();
  acquire(&machine.start_token);
  machine.current->inside = true;
  try {
    (*machine.kernel)();
    finish_copies();
  } catch (const Stop&) {
  }
  machine.current->inside = false;
  release(&machine.end_token);
  ++machine.exited;
  machine.current->fiber.leave();
}

void resume(Thread& thread) {
  machine.current = &thread;
  threadIdx = thread.index;
  thread.fiber.resume();
}

// Lets the others run until this thread is woken.
void pause() {
  machine.current->fiber.suspend();
  if (!machine.error.empty()) throw Stop{};
}

void prepare(Thread& thread, unsigned number) {
  thread.fiber.restart(run_thread);
  thread.number = number;
  thread.open_group.clear();
  thread.groups.clear();
  const unsigned x = blockDim.x, y = blockDim.y;
  thread.index = {number % x, number / x % y, number / (x * y)};
}

bool any_ready() { return machine.next_ready < machine.ready.size(); }

Thread& pick() {
  auto& ready = machine.ready;
  unsigned number = 0;
  if (options().seed == 0) {
    number = ready[machine.next_ready++];
    if (!any_ready()) {
      ready.clear();
      machine.next_ready = 0;
    }
  } else {
    std::swap(ready[machine.random() % ready.size()], ready.back());
    number = ready.back();
    ready.pop_back();
  }
  return *machine.threads[number];
}

std::string describe(const Rendezvous& waiting, std::size_t warp) {
  std::array<char, 64> masks{};
  std::snprintf(masks.data(), masks.size(), " (mask %08x, arrived %08x)", waiting.operation.mask,
                waiting.arrived);
  return "; warp " + std::to_string(warp) + " waits at " + waiting.operation.name + " " +
         place_of(waiting.operation.where) + masks.data();
}

std::string describe_stall() {
  std::string text = "barrier divergence: " + std::to_string(machine.exited) + " of " +
                     std::to_string(machine.size) + " threads have exited";
  if (machine.at_barrier != 0)
    text += "; " + std::to_string(machine.at_barrier) + " wait at __syncthreads " +
            place_of(machine.barrier_where);
  for (std::size_t w = 0; w < machine.warps.size(); ++w)
    for (const Rendezvous& waiting : machine.warps[w].pending) text += describe(waiting, w);
  return text;
}

void reset_block() {
  machine.warps.resize((machine.size + kWarp - 1) / kWarp);
  for (std::size_t w = 0; w < machine.warps.size(); ++w) {
    const std::size_t lanes = std::min(kWarp, machine.size - w * kWarp);
    machine.warps[w].lanes = lanes == kWarp ? ~0u : (1u << lanes) - 1;
    machine.warps[w].pending.clear();
  }
  machine.at_barrier = machine.exited = machine.next_ready = 0;
  machine.ready.clear();
  for (SharedBlock& block : machine.shared)  // those of other kernels are poison still
    if (std::exchange(block.used, false)) poison(block.data, block.bytes);
  if (machine.dynamic_bytes != 0) poison(machine.dynamic, machine.dynamic_bytes);
  for (unsigned i = 0; i < machine.size; ++i) {
    prepare(*machine.threads[i], i);
    machine.ready.push_back(i);
  }
}

void run_block() {
  // TSan sees blocks in an order, because they reuse the same shared memory: a race between blocks
  // stays unseen.
  reset_block();
  release(&machine.start_token);
  while (any_ready() && machine.error.empty()) resume(pick());
  if (machine.error.empty() && machine.exited != machine.size) machine.error = describe_stall();
  std::size_t used = machine.dynamic_bytes;
  for (const SharedBlock& block : machine.shared) used += block.used ? block.bytes : 0;
  if (machine.error.empty() && used > options().shared_limit)
    machine.error = "the block uses " + std::to_string(used) +
                    " bytes of shared memory, the limit is " +
                    std::to_string(options().shared_limit);
  if (!machine.error.empty())
    for (std::size_t i = 0; i < machine.size; ++i)
      if (machine.threads[i]->inside) resume(*machine.threads[i]);  // unwinds
  acquire(&machine.end_token);
}

std::string run_blocks(dim3 grid) {
  std::vector<std::size_t> order(std::size_t{grid.x} * grid.y * grid.z);
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  if (options().seed != 0) std::shuffle(order.begin(), order.end(), machine.random);
  for (const std::size_t b : order) {
    blockIdx = {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                static_cast<unsigned>(b / grid.x / grid.y)};
    run_block();
    if (!machine.error.empty())
      return machine.error + ", block " + triple(blockIdx.x, blockIdx.y, blockIdx.z);
  }
  return {};
}

double number_from(const char* variable, double otherwise) {
  const char* text = std::getenv(variable);
  return text == nullptr ? otherwise : std::strtod(text, nullptr);
}

}  // namespace

Options& options() {
  static Options instance{
      .seed = static_cast<std::uint64_t>(number_from("DEMIST_EMULATION_SEED", 0)),
      .patience_s = number_from("DEMIST_EMULATION_PATIENCE", 60),
      .fastest_algorithm = static_cast<std::uint32_t>(number_from("DEMIST_EMULATION_FASTEST", 0))};
  return instance;
}

std::string place_of(const Location& where) {
  return std::string(where.file_name()) + ":" + std::to_string(where.line());
}

cudaError_t launch(const Launch& launch, cudaStream_t stream, std::function<void()> kernel) {
  const dim3 grid = launch.grid, block = launch.block;
  const std::size_t threads = std::size_t{block.x} * block.y * block.z;
  const bool fits = threads > 0 && threads <= 1024 && block.z <= 64 && grid.x > 0 && grid.y > 0 &&
                    grid.z > 0 && grid.x <= 0x7fffffffu && grid.y <= 65535 && grid.z <= 65535;
  if (!fits) return complain(cudaErrorInvalidConfiguration, "launch at " + place_of(launch.where));
  if (launch.shared_bytes > options().shared_limit)
    return complain(cudaErrorInvalidValue, "launch at " + place_of(launch.where) + ": " +
                                               std::to_string(launch.shared_bytes) +
                                               " bytes of dynamic shared memory");
  Lock lock = lock_device();
  ++counters().launches;
  return enqueue(lock, stream, {[launch, kernel = std::move(kernel)] {
                   run_grid(launch, kernel);
                   return Progress::done;
                 }});
}

void run_grid(const Launch& launch, const std::function<void()>& kernel) {
  const Untraced untraced;
  machine.size = std::size_t{launch.block.x} * launch.block.y * launch.block.z;
  while (machine.threads.size() < machine.size)
    machine.threads.push_back(std::make_unique<Thread>());
  // Exactly so many bytes on the heap: AddressSanitizer sees an access past the end.
  machine.dynamic = nullptr;
  if (launch.shared_bytes != 0 && posix_memalign(&machine.dynamic, 128, launch.shared_bytes) != 0)
    throw std::bad_alloc();
  const std::unique_ptr<void, decltype(&std::free)> dynamic(machine.dynamic, &std::free);
  machine.dynamic_bytes = launch.shared_bytes;
  machine.kernel = &kernel;
  machine.error.clear();
  machine.random.seed(options().seed);
  blockDim = launch.block;
  gridDim = launch.grid;
  const std::string error = run_blocks(launch.grid);
  machine.current = nullptr;
  if (!error.empty())
    throw Fault(error + ", kernel launched at " + place_of(launch.where) + ", seed " +
                std::to_string(options().seed));
}

int lane() { return static_cast<int>(machine.current->number % kWarp); }
void* dynamic_shared() {
  if (machine.dynamic == nullptr) fail("dynamic_shared(): the launch asked for no shared bytes");
  return machine.dynamic;
}
int register_shared(void* data, std::size_t bytes) {
  const Untraced untraced;
  machine.shared.push_back({data, bytes, true});
  poison(data, bytes);
  return static_cast<int>(machine.shared.size()) - 1;
}
void use_shared(int id) { machine.shared[static_cast<std::size_t>(id)].used = true; }

void fail(const std::string& what) {
  machine.error = what + " [" + name_of(*machine.current) + "]";
  throw Stop{};
}

void barrier(Location where) {
  const Untraced untraced;
  if (machine.at_barrier == 0)
    machine.barrier_where = where;
  else if (where.line() != machine.barrier_where.line())
    fail("barrier divergence: at __syncthreads " + place_of(where) + " while others wait at " +
         place_of(machine.barrier_where));
  char* token = &machine.barrier_tokens[machine.barrier_generation % 2];
  release(token);
  if (++machine.at_barrier == machine.size) {
    machine.at_barrier = 0;
    ++machine.barrier_generation;
    for (unsigned i = 0; i < machine.size; ++i) machine.ready.push_back(i);
  }
  pause();
  acquire(token);
}

namespace {

Rendezvous& rendezvous_of(Warp& warp, const Operation& operation) {
  for (Rendezvous& other : warp.pending) {
    if ((other.operation.mask & operation.mask) == 0) continue;
    if (other.operation.mask != operation.mask ||
        std::strcmp(other.operation.name, operation.name) != 0 ||
        other.operation.where.line() != operation.where.line())
      fail(std::string("warp divergence: at ") + operation.name + " " + place_of(operation.where) +
           " while other lanes wait at " + other.operation.name + " " +
           place_of(other.operation.where));
    return other;
  }
  Rendezvous& fresh = warp.pending.emplace_back(operation);
  if (operation.memory == Memory::ordered) fresh.token = &warp.tokens[warp.generation++ % 2];
  return fresh;
}

// The last lane: works for all, wakes the others.
void complete(Warp& warp, Rendezvous& waiting, unsigned self) {
  const unsigned mask = waiting.operation.mask;
  if (waiting.operation.combine != nullptr)
    waiting.operation.combine(waiting.in.data(), waiting.out.data(), mask);
  const unsigned first = self / kWarp * kWarp;
  for (unsigned l = 0; l < kWarp; ++l)
    if (first + l != self && (mask >> l & 1) != 0) machine.ready.push_back(first + l);
  if (&waiting != &warp.pending.back()) waiting = warp.pending.back();
  warp.pending.pop_back();
}

}  // namespace

void collective(const Operation& operation, void* in, void* out) {
  const Untraced untraced;
  Thread& self = *machine.current;
  Warp& warp = machine.warps[self.number / kWarp];
  const unsigned lane = self.number % kWarp;
  Operation mine = operation;
  mine.mask &= warp.lanes;
  if ((mine.mask >> lane & 1) == 0)
    fail(std::string(mine.name) + " " + place_of(mine.where) + ": the lane is not in its mask");
  Rendezvous& meeting = rendezvous_of(warp, mine);
  meeting.arrived |= 1u << lane;
  meeting.in[lane] = in;
  meeting.out[lane] = out;
  char* const token = meeting.token;
  if (token != nullptr) release(token);
  if (meeting.arrived == mine.mask)
    complete(warp, meeting, self.number);
  else
    pause();
  if (token != nullptr) acquire(token);
}

// While a copy is on its way its destination holds nothing: poison at once, data at the wait. So a
// reader that the copy overtakes and a reader that did not wait both see it.
void copy_async(void* to, const void* from, std::size_t bytes, bool valid, Location where) {
  const auto misaligned = [bytes](const void* p) {
    return reinterpret_cast<std::uintptr_t>(p) % bytes != 0;
  };
  if (misaligned(to) || (valid && misaligned(from)))
    fail("cp.async " + place_of(where) + ": an address is no multiple of " + std::to_string(bytes));
  poison(to, bytes);  // traced: a memory access of the kernel
  const Untraced untraced;
  machine.current->open_group.push_back({static_cast<char*>(to), from, bytes, valid});
}

void copy_commit() {
  const Untraced untraced;
  Thread& self = *machine.current;
  self.groups.push_back(std::move(self.open_group));
  self.open_group.clear();
}

void copy_wait(int groups_left) {
  auto& groups = machine.current->groups;
  while (groups.size() > static_cast<std::size_t>(groups_left)) {
    for (const Copy& copy : groups.front()) {  // traced
      if (copy.valid)
        std::memcpy(copy.to, copy.from, copy.bytes);
      else
        std::memset(copy.to, 0, copy.bytes);
    }
    const Untraced untraced;
    groups.erase(groups.begin());
  }
}

}  // namespace demist::emu
