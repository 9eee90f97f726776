// The part of libcudart that the product calls, with its C interface: streams, events, memory.
// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <cstring>
#include <set>
#include <vector>

#include "tests/emulation/counters.hpp"
#include "tests/emulation/device_memory.hpp"
#include "tests/emulation/emulator.hpp"
#include "tests/emulation/streams.hpp"

using demist::emu::complain;
using demist::emu::counters;
using demist::emu::done;
using demist::emu::enqueue;
using demist::emu::in_device_memory;
using demist::emu::Lock;
using demist::emu::lock_device;
using demist::emu::Place;
using demist::emu::place_of;
using demist::emu::Progress;
using demist::emu::run_all;
using demist::emu::run_stream;
using demist::emu::run_until;
using demist::emu::Ticket;
using demist::emu::Work;
using Clock = std::chrono::steady_clock;

struct CUevent_st {
  unsigned flags = 0;
  Ticket recorded = nullptr;  // each record is a generation of its own
  std::shared_ptr<Clock::time_point> when = nullptr;
};

namespace {

std::set<cudaEvent_t>& events() {
  static std::set<cudaEvent_t> instance;
  return instance;
}

cudaError_t check_event(cudaEvent_t event) {
  if (events().contains(event)) return cudaSuccess;
  return complain(cudaErrorInvalidResourceHandle, "the event does not exist, or no longer");
}

Work once(std::function<void()> action) {
  return {[action = std::move(action)] {
    action();
    return Progress::done;
  }};
}

// A rectangle of memory: `rows` runs of `bytes`, `pitch` apart.
struct Area {
  char* data;
  std::size_t pitch, bytes, rows;
  char* row(std::size_t r) const { return data + r * pitch; }
  std::size_t extent() const { return rows == 0 ? 0 : (rows - 1) * pitch + bytes; }
};

Area area_of(const void* p, std::size_t pitch, std::size_t bytes, std::size_t rows) {
  return {static_cast<char*>(const_cast<void*>(p)), pitch, bytes, rows};
}

// A device side of a copy must be device memory to its last byte, a host side must not be.
cudaError_t check_side(const Area& area, bool on_device, const char* side) {
  if (area.extent() == 0) return cudaSuccess;
  const bool is_device = place_of(area.data) == Place::device;
  if (is_device != on_device)
    return complain(cudaErrorInvalidValue, std::string("copy: the ") + side + " is " +
                                               (is_device ? "" : "not ") + "device memory");
  if (on_device && area.extent() > demist::emu::bytes_after(area.data))
    return complain(cudaErrorInvalidValue,
                    std::string("copy: the ") + side + " ends behind its allocation");
  return cudaSuccess;
}

cudaError_t resolve_kind(const Area& to, const Area& from, cudaMemcpyKind& kind) {
  if (kind == cudaMemcpyDefault) {
    const bool to_device = place_of(to.data) == Place::device;
    const bool from_device = place_of(from.data) == Place::device;
    kind = to_device ? (from_device ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice)
                     : (from_device ? cudaMemcpyDeviceToHost : cudaMemcpyHostToHost);
  }
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  const cudaError_t error = check_side(to, to_device, "destination");
  return error == cudaSuccess ? check_side(from, from_device, "source") : error;
}

void copy_now(const Area& to, const Area& from, cudaMemcpyKind kind) {
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if ((to_device && !in_device_memory(to.data, to.extent())) ||
      (from_device && !in_device_memory(from.data, from.extent())))
    throw demist::emu::Fault("copy: device memory was freed before the copy ran");
  for (std::size_t r = 0; r < to.rows; ++r) std::memmove(to.row(r), from.row(r), to.bytes);
}

// Pageable memory is staged before the call returns, and copied to before it returns.
cudaError_t copy(cudaStream_t stream, const Area& to, const Area& from, cudaMemcpyKind kind) {
  Lock lock = lock_device();
  cudaError_t error = resolve_kind(to, from, kind);
  if (error != cudaSuccess || to.extent() == 0) return error;
  if (place_of(to.data) == Place::pageable || place_of(from.data) == Place::pageable)
    ++counters().pageable_copies;
  if (kind == cudaMemcpyHostToDevice && place_of(from.data) == Place::pageable) {
    std::vector<char> staged(from.bytes * from.rows);
    for (std::size_t r = 0; r < from.rows; ++r)
      std::memcpy(staged.data() + r * from.bytes, from.row(r), from.bytes);
    return enqueue(lock, stream, once([to, kind, staged = std::move(staged)]() mutable {
                     copy_now(to, {staged.data(), to.bytes, to.bytes, to.rows}, kind);
                   }));
  }
  if (kind == cudaMemcpyDeviceToHost)  // whoever reads it too early gets NaN
    for (std::size_t r = 0; r < to.rows; ++r) std::memset(to.row(r), 0xff, to.bytes);
  error = enqueue(lock, stream, once([=] { copy_now(to, from, kind); }));
  const bool waits = kind == cudaMemcpyHostToHost ||
                     (kind == cudaMemcpyDeviceToHost && place_of(to.data) == Place::pageable);
  return error == cudaSuccess && waits ? run_stream(lock, stream) : error;
}

cudaError_t fill(cudaStream_t stream, void* p, int value, std::size_t bytes) {
  Lock lock = lock_device();
  const cudaError_t error = check_side(area_of(p, bytes, bytes, 1), true, "destination of a fill");
  if (error != cudaSuccess || bytes == 0) return error;
  return enqueue(lock, stream, once([=] {
                   if (!in_device_memory(p, bytes))
                     throw demist::emu::Fault("fill: device memory was freed before it ran");
                   std::memset(p, value, bytes);
                 }));
}

}  // namespace

extern "C" {

cudaError_t cudaMalloc(void** p, std::size_t bytes) {
  const Lock lock = lock_device();
  ++counters().allocations;
  return demist::emu::allocate(p, bytes, Place::device);
}
// Like the real one, waits for all work first.
cudaError_t cudaFree(void* p) {
  Lock lock = lock_device();
  ++counters().allocations;
  const cudaError_t error = run_all(lock);
  const cudaError_t released = demist::emu::release_memory(p, Place::device);
  return error == cudaSuccess ? released : error;
}
cudaError_t cudaMallocAsync(void** p, std::size_t bytes, cudaStream_t stream) {
  const Lock lock = lock_device();
  ++counters().allocations;
  if (!demist::emu::is_stream(stream))
    return complain(cudaErrorInvalidResourceHandle, "cudaMallocAsync: no such stream");
  return demist::emu::allocate(p, bytes, Place::device);
}
cudaError_t cudaFreeAsync(void* p, cudaStream_t stream) {
  Lock lock = lock_device();
  ++counters().allocations;
  if (p != nullptr && place_of(p) != Place::device)
    return complain(cudaErrorInvalidValue, "cudaFreeAsync: not device memory");
  return enqueue(lock, stream, once([p] { demist::emu::release_memory(p, Place::device); }));
}
cudaError_t cudaHostAlloc(void** p, std::size_t bytes, unsigned) {
  const Lock lock = lock_device();
  ++counters().allocations;
  return demist::emu::allocate(p, bytes, Place::pinned);
}
cudaError_t cudaMallocHost(void** p, std::size_t bytes) { return cudaHostAlloc(p, bytes, 0); }
cudaError_t cudaFreeHost(void* p) {
  Lock lock = lock_device();
  ++counters().allocations;
  const cudaError_t error = run_all(lock);
  const cudaError_t released = demist::emu::release_memory(p, Place::pinned);
  return error == cudaSuccess ? released : error;
}
cudaError_t cudaHostRegister(void* p, std::size_t bytes, unsigned) {
  const Lock lock = lock_device();
  ++counters().allocations;
  return demist::emu::pin(p, bytes);
}
cudaError_t cudaHostUnregister(void* p) {
  Lock lock = lock_device();
  ++counters().allocations;
  const cudaError_t error = run_all(lock);
  const cudaError_t released = demist::emu::unpin(p);
  return error == cudaSuccess ? released : error;
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  const Lock lock = lock_device();
  *total = demist::emu::device_bytes_total();
  *free = *total - demist::emu::device_bytes_used();
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* p) {
  const Lock lock = lock_device();
  const Place place = place_of(p);
  *attributes = {};
  attributes->type = place == Place::device   ? cudaMemoryTypeDevice
                     : place == Place::pinned ? cudaMemoryTypeHost
                                              : cudaMemoryTypeUnregistered;
  if (place != Place::pageable) attributes->devicePointer = const_cast<void*>(p);
  if (place != Place::device) attributes->hostPointer = const_cast<void*>(p);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return copy(stream, area_of(to, bytes, bytes, 1), area_of(from, bytes, bytes, 1), kind);
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  return error == cudaSuccess ? cudaStreamSynchronize(nullptr) : error;
}
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from,
                              std::size_t from_pitch, std::size_t width, std::size_t height,
                              cudaMemcpyKind kind, cudaStream_t stream) {
  if (width > to_pitch || width > from_pitch)
    return complain(cudaErrorInvalidPitchValue, "cudaMemcpy2DAsync: rows overlap");
  return copy(stream, area_of(to, to_pitch, width, height),
              area_of(from, from_pitch, width, height), kind);
}
cudaError_t cudaMemsetAsync(void* p, int value, std::size_t bytes, cudaStream_t stream) {
  return fill(stream, p, value, bytes);
}
cudaError_t cudaMemset(void* p, int value, std::size_t bytes) {
  return fill(nullptr, p, value, bytes);
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  Lock lock = lock_device();
  return enqueue(lock, stream, once([=] { function(data); }));
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
  const Lock lock = lock_device();
  ++counters().objects;
  if (flags > cudaStreamNonBlocking)
    return complain(cudaErrorInvalidValue, "cudaStreamCreate: flags");
  *stream = demist::emu::make_stream(flags, priority);
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithPriority(stream, cudaStreamDefault, 0);
}
cudaError_t cudaStreamGetPriority(cudaStream_t stream, int* priority) {
  const Lock lock = lock_device();
  if (!demist::emu::is_stream(stream))
    return complain(cudaErrorInvalidResourceHandle, "cudaStreamGetPriority: no such stream");
  *priority = demist::emu::priority_of(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  Lock lock = lock_device();
  ++counters().synchronizations;
  return run_stream(lock, stream);
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  Lock lock = lock_device();
  if (!demist::emu::is_stream(stream))
    return complain(cudaErrorInvalidResourceHandle, "cudaStreamQuery: no such stream");
  demist::emu::run_some(lock);
  if (!demist::emu::fault().empty()) return cudaErrorLaunchFailure;
  return demist::emu::is_idle(stream) ? cudaSuccess : cudaErrorNotReady;
}
// The real one lets queued work go on; so does this, by finishing it.
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Lock lock = lock_device();
  ++counters().objects;
  if (stream == nullptr)
    return complain(cudaErrorInvalidResourceHandle, "cudaStreamDestroy: the default stream");
  const cudaError_t error = run_stream(lock, stream);
  demist::emu::drop_stream(stream);
  return error;
}
cudaError_t cudaDeviceSynchronize() {
  Lock lock = lock_device();
  ++counters().synchronizations;
  return run_all(lock);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  const Lock lock = lock_device();
  ++counters().objects;
  events().insert(*event = new CUevent_st{.flags = flags});
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const Lock lock = lock_device();
  ++counters().objects;
  const cudaError_t error = check_event(event);
  if (error != cudaSuccess) return error;
  events().erase(event);
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  Lock lock = lock_device();
  cudaError_t error = check_event(event);
  if (error != cudaSuccess) return error;
  auto when = std::make_shared<Clock::time_point>();
  Work work = once([when] { *when = demist::emu::device_time(); });
  const Ticket ticket = work.done;
  error = enqueue(lock, stream, std::move(work));
  if (error != cudaSuccess) return error;
  event->recorded = ticket;
  event->when = when;
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  Lock lock = lock_device();
  const cudaError_t error = check_event(event);
  if (error != cudaSuccess) return error;
  Work work = once([] {});
  work.after.push_back(event->recorded);
  return enqueue(lock, stream, std::move(work));
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  Lock lock = lock_device();
  ++counters().event_waits;
  const cudaError_t error = check_event(event);
  if (error != cudaSuccess) return error;
  return run_until(lock, [ticket = event->recorded] { return done(ticket); });
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  Lock lock = lock_device();
  const cudaError_t error = check_event(event);
  if (error != cudaSuccess) return error;
  if (!done(event->recorded)) demist::emu::run_some(lock);
  if (!demist::emu::fault().empty()) return cudaErrorLaunchFailure;
  return done(event->recorded) ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {
  const Lock lock = lock_device();
  for (cudaEvent_t event : {start, end}) {
    if (const cudaError_t error = check_event(event); error != cudaSuccess) return error;
    if ((event->flags & cudaEventDisableTiming) != 0 || event->recorded == nullptr)
      return complain(cudaErrorInvalidResourceHandle, "cudaEventElapsedTime: event without a time");
    if (!done(event->recorded)) return cudaErrorNotReady;
  }
  *ms = std::chrono::duration<float, std::milli>(*end->when - *start->when).count();
  return cudaSuccess;
}

}  // extern "C"
