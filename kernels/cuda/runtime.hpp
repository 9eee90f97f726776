// Owners of CUDA runtime objects, and what turns its error codes into errors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <string>
#include <utility>

#include "core/error.hpp"

namespace demist::cuda {

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  throw EnvironmentError(std::string("CUDA: ") + what + ": " + cudaGetErrorString(error) +
                         "; nvidia-smi shows the state of the device");
}

// A queue of work. It does not wait for the legacy default stream, nor that one for it.
class Stream {
 public:
  // urgent: its blocks go first where both have some that could start.
  enum class Kind { normal, urgent };
  explicit Stream(Kind kind = Kind::normal) {
    int least = 0, greatest = 0;
    check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "priorities of streams");
    check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking,
                                       kind == Kind::urgent ? greatest : least),
          "new stream");
  }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }
  void wait() const { check(cudaStreamSynchronize(stream_), "work on the device"); }

 private:
  cudaStream_t stream_ = nullptr;
};

// A place in a queue that the host or another queue can wait for.
class Event {
 public:
  Event() { check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "new event"); }
  ~Event() {
    if (event_ != nullptr) cudaEventDestroy(event_);
  }
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&& other) = delete;
  void record(const Stream& stream) { check(cudaEventRecord(event_, stream.get()), "event"); }
  // Returns at once when nothing was recorded.
  void wait() const { check(cudaEventSynchronize(event_), "work on the device"); }
  bool reached() const {
    const cudaError_t state = cudaEventQuery(event_);
    if (state != cudaErrorNotReady) check(state, "work on the device");
    return state == cudaSuccess;
  }
  void hold(const Stream& stream) const {
    check(cudaStreamWaitEvent(stream.get(), event_, 0), "wait for an event");
  }

 private:
  cudaEvent_t event_ = nullptr;
};

// A place in a stream that knows when it was passed.
class TimedEvent {
 public:
  TimedEvent() { check(cudaEventCreate(&event_), "new event"); }
  ~TimedEvent() {
    if (event_ != nullptr) cudaEventDestroy(event_);
  }
  TimedEvent(TimedEvent&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  TimedEvent& operator=(TimedEvent&& other) = delete;
  void record(const Stream& stream) { check(cudaEventRecord(event_, stream.get()), "event"); }
  // Waits for both.
  double seconds_since(const TimedEvent& start) const {
    float ms = 0;
    check(cudaEventSynchronize(event_), "work on the device");
    check(cudaEventElapsedTime(&ms, start.event_, event_), "elapsed time");
    return ms * 1e-3;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace demist::cuda
