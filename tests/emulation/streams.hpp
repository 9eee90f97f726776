// Streams of the emulated device: queues that run at the latest legal moment (a synchronization),
// or at random moments, in a seeded order among streams. A missing wait then shows as a wrong
// result. SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace demist::emu {

enum class Progress { done, waits_for_peer };

// Set once the work that carries it has run. Null: there was no such work.
using Ticket = std::shared_ptr<bool>;
inline bool done(const Ticket& ticket) { return ticket == nullptr || *ticket; }

struct Work {
  std::function<Progress()> run;
  std::function<std::string()> describe = [] { return std::string("work of the device"); };
  std::vector<Ticket> after = {};
  Ticket done = std::make_shared<bool>(false);
};

// One line on stderr, and the error as the runtime's last one. A wrong call is never silent.
cudaError_t complain(cudaError_t error, const std::string& what);

// Every call of the fakes holds this lock.
using Lock = std::unique_lock<std::mutex>;
Lock lock_device();

// Queue work. The stream must exist, or cudaErrorInvalidResourceHandle.
cudaError_t enqueue(cudaStream_t stream, std::function<void()> work);
cudaError_t enqueue(Lock& lock, cudaStream_t stream, Work work);

// What events tell: the machine's clock, moved on by work that pretends to be slow.
std::chrono::steady_clock::time_point device_time();
void pretend(std::chrono::steady_clock::duration slowness);

// Run queued work until `finished`. A fault ends everything and sticks, as on a device.
cudaError_t run_until(Lock& lock, const std::function<bool()>& finished,
                      cudaStream_t wanted = nullptr);
cudaError_t run_stream(Lock& lock, cudaStream_t stream);
cudaError_t run_all(Lock& lock);
void run_some(Lock& lock);

bool is_stream(cudaStream_t stream);
cudaStream_t make_stream(unsigned flags, int priority);
void drop_stream(cudaStream_t stream);
bool is_idle(cudaStream_t stream);
int priority_of(cudaStream_t stream);
Ticket last_work(cudaStream_t stream);

// The fault that ended the device's work, or empty.
const std::string& fault();
// The same, and the device works again: for tests of faults, with empty streams.
std::string take_fault();
cudaError_t last_error(bool clear);

}  // namespace demist::emu
