// SPDX-License-Identifier: Apache-2.0
#include "tests/emulation/streams.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>
#include <thread>
#include <utility>

#include "tests/emulation/device_pages.hpp"
#include "tests/emulation/emulator.hpp"

struct CUstream_st {
  unsigned flags = 0;
  int priority = 0;
  std::deque<demist::emu::Work> queue = {};
  demist::emu::Ticket last = nullptr;
};

namespace demist::emu {
namespace {

using Clock = std::chrono::steady_clock;

struct Device {
  std::mutex mutex;
  std::vector<std::unique_ptr<CUstream_st>> streams;
  std::mt19937_64 random{options().seed};
  cudaError_t last_error = cudaSuccess;
  std::string fault;
  Clock::duration slowness{};
};

Device& device() {
  static Device instance;
  return instance;
}

// The legacy default stream: ordered with all streams not made with cudaStreamNonBlocking.
CUstream_st* legacy() {
  static CUstream_st stream;
  return &stream;
}

CUstream_st* resolve(cudaStream_t stream) {
  if (stream == nullptr || stream == cudaStreamLegacy) return legacy();
  for (const auto& own : device().streams)
    if (own.get() == stream) return stream;
  return nullptr;
}

std::vector<CUstream_st*> busy_streams() {
  std::vector<CUstream_st*> busy;
  if (!legacy()->queue.empty()) busy.push_back(legacy());
  for (const auto& stream : device().streams)
    if (!stream->queue.empty()) busy.push_back(stream.get());
  return busy;
}

void order_with_legacy(CUstream_st* stream, Work& work) {
  if (stream == legacy()) {
    for (const auto& other : device().streams)
      if ((other->flags & cudaStreamNonBlocking) == 0) work.after.push_back(other->last);
  } else if ((stream->flags & cudaStreamNonBlocking) == 0) {
    work.after.push_back(legacy()->last);
  }
}

void fail_device(const std::string& what) {
  device().fault = what;
  std::fprintf(stderr, "emulated CUDA: %s\n", what.c_str());
  for (CUstream_st* stream : busy_streams()) {
    for (Work& work : stream->queue) *work.done = true;
    stream->queue.clear();
  }
}

enum class Step { ran, blocked, waits_for_peer };

// Runs the stream's next work, if its turn has come.
Step step(CUstream_st* stream) {
  Work& work = stream->queue.front();
  if (!std::all_of(work.after.begin(), work.after.end(), done)) return Step::blocked;
  try {
    if (work.run() == Progress::waits_for_peer) return Step::waits_for_peer;
  } catch (const Fault& fault) {
    fail_device(fault.what());
    return Step::ran;
  }
  *work.done = true;
  stream->queue.pop_front();
  return Step::ran;
}

// Any stream that can go on, at random; without a seed `wanted` first, so that the others' work is
// done as late as can be. Tells whether some wait for other processes instead.
Step step_any(CUstream_st* wanted = nullptr) {
  std::vector<CUstream_st*> busy = busy_streams();
  std::shuffle(busy.begin(), busy.end(), device().random);
  if (const auto at = std::find(busy.begin(), busy.end(), wanted);
      at != busy.end() && options().seed == 0)
    std::iter_swap(busy.begin(), at);
  Step best = Step::blocked;
  for (CUstream_st* stream : busy) {
    const Step result = step(stream);
    if (result == Step::ran) return result;
    if (result == Step::waits_for_peer) best = result;
  }
  return best;
}

std::string describe_waits() {
  std::string text;
  for (CUstream_st* stream : busy_streams())
    text += (text.empty() ? "" : "; ") + stream->queue.front().describe();
  return text;
}

void let_peers_work(Lock& lock) {
  lock.unlock();  // a watchdog thread may want to abort
  std::this_thread::sleep_for(std::chrono::microseconds(50));
  lock.lock();
}

}  // namespace

cudaError_t complain(cudaError_t error, const std::string& what) {
  std::fprintf(stderr, "emulated CUDA: %s: %s\n", cudaGetErrorName(error), what.c_str());
  device().last_error = error;
  return error;
}

Lock lock_device() { return Lock(device().mutex); }

Clock::time_point device_time() { return Clock::now() + device().slowness; }
void pretend(Clock::duration slowness) { device().slowness += slowness; }

cudaError_t enqueue(Lock& lock, cudaStream_t handle, Work work) {
  if (!device().fault.empty()) return cudaErrorLaunchFailure;
  CUstream_st* stream = resolve(handle);
  if (stream == nullptr)
    return complain(cudaErrorInvalidResourceHandle, "the stream does not exist, or no longer");
  order_with_legacy(stream, work);
  stream->last = work.done;
  stream->queue.push_back(std::move(work));
  if (options().seed != 0 && device().random() % 4 == 0) run_some(lock);
  return cudaSuccess;
}

cudaError_t enqueue(cudaStream_t stream, std::function<void()> work) {
  Lock lock = lock_device();
  return enqueue(lock, stream, {[work = std::move(work)] {
                   work();
                   return Progress::done;
                 }});
}

void run_some(Lock&) {
  const DeviceAccess access;
  for (auto left = device().random() % 4; left > 0; --left)
    if (step_any() != Step::ran) return;
}

cudaError_t run_until(Lock& lock, const std::function<bool()>& finished, cudaStream_t wanted) {
  if (finished()) return device().fault.empty() ? cudaSuccess : cudaErrorLaunchFailure;
  const DeviceAccess access;  // changing pages is slow: once for all that is waited for
  auto last_progress = Clock::now();
  while (device().fault.empty() && !finished()) {
    const Step result = step_any(wanted);
    if (result == Step::ran) {
      last_progress = Clock::now();
    } else if (result == Step::blocked) {
      fail_device("stream deadlock: the wait is for work that nobody queued");
    } else if (std::chrono::duration<double>(Clock::now() - last_progress).count() >
               options().patience_s) {
      fail_device("no progress for " + std::to_string(options().patience_s) +
                  " s: " + describe_waits());
    } else {
      let_peers_work(lock);
    }
  }
  return device().fault.empty() ? cudaSuccess : cudaErrorLaunchFailure;
}

cudaError_t run_stream(Lock& lock, cudaStream_t handle) {
  CUstream_st* stream = resolve(handle);
  if (stream == nullptr)
    return complain(cudaErrorInvalidResourceHandle, "the stream does not exist, or no longer");
  return run_until(
      lock, [ticket = last_work(handle)] { return done(ticket); }, stream);
}

cudaError_t run_all(Lock& lock) {
  return run_until(lock, [] { return busy_streams().empty(); });
}

bool is_stream(cudaStream_t stream) { return resolve(stream) != nullptr; }

cudaStream_t make_stream(unsigned flags, int priority) {
  device().streams.push_back(std::make_unique<CUstream_st>(flags, priority));
  return device().streams.back().get();
}

void drop_stream(cudaStream_t stream) {
  std::erase_if(device().streams, [=](const auto& own) { return own.get() == stream; });
}

bool is_idle(cudaStream_t stream) { return resolve(stream)->queue.empty(); }

int priority_of(cudaStream_t stream) { return resolve(stream)->priority; }

// The default stream's last work stands for everything that it is ordered after.
Ticket last_work(cudaStream_t handle) {
  CUstream_st* stream = resolve(handle);
  return stream == nullptr ? nullptr : stream->last;
}

const std::string& fault() { return device().fault; }

std::string take_fault() {
  const Lock lock = lock_device();
  device().last_error = cudaSuccess;
  return std::exchange(device().fault, {});
}

cudaError_t last_error(bool clear) {
  if (!device().fault.empty()) return cudaErrorLaunchFailure;
  return clear ? std::exchange(device().last_error, cudaSuccess) : device().last_error;
}

}  // namespace demist::emu
