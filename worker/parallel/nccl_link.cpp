// SPDX-License-Identifier: Apache-2.0
#include "worker/parallel/nccl_link.hpp"

#include <cstring>
#include <optional>
#include <thread>
#include <utility>

#include "worker/parallel/nccl_start.hpp"

namespace demist {
namespace {

using Clock = std::chrono::steady_clock;

// For a call of NCCL that is under way when its communicator is to be aborted.
constexpr std::chrono::seconds kCallLimit{1};
constexpr std::chrono::microseconds kSpin{200};  // before a wait sleeps

std::string text_of(ncclResult_t result) {
  return std::string(ncclGetErrorString(result)) + "; NCCL_DEBUG=INFO shows more";
}

// Empty where there is none: whoever gets it cannot start.
std::string make_id() {
  ncclUniqueId id{};
  if (ncclGetUniqueId(&id) != ncclSuccess) return {};
  return {reinterpret_cast<const char*>(&id), sizeof id};
}

}  // namespace

void check(ncclResult_t result, const char* what) {
  if (result == ncclSuccess || result == ncclInProgress) return;
  const std::string text = std::string(what) + ": " + text_of(result);
  if (result == ncclRemoteError) throw AgreedError(ExitCode::suspect, text);
  throw EnvironmentError(text);
}

NcclLink::NcclLink(const mpi::Comm& comm, std::chrono::milliseconds limit)
    : limit_(limit), heartbeat_(comm.heartbeat()) {
  const mpi::Call call(comm, "NCCL start");
  try {
    start(comm);
  } catch (...) {
    abort();
    throw;
  }
  if (heartbeat_ != nullptr) heartbeat_->connections().add(*this);
}

NcclLink::~NcclLink() {
  if (heartbeat_ != nullptr) heartbeat_->connections().remove(*this);
  if (comm_ != nullptr) ncclCommDestroy(comm_);
}

void NcclLink::start(const mpi::Comm& comm) {
  Start together(comm, limit_);
  const std::string text = together.share(make_id);
  ncclUniqueId id{};
  std::memcpy(&id, text.data(), std::min(text.size(), sizeof id));
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  const ncclResult_t begun =
      text.empty() ? ncclSystemError
                   : ncclCommInitRankConfig(&comm_, comm.size(), id, comm.rank(), &config);
  together.finish([&]() -> std::optional<std::string> {
    const bool begins = begun == ncclSuccess || begun == ncclInProgress;
    const ncclResult_t now = begins ? state() : begun;
    if (now == ncclInProgress) return std::nullopt;
    return now == ncclSuccess ? "" : text_of(now);
  });
}

void NcclLink::require_open(const char* what) const {
  if (comm_ == nullptr)
    throw EnvironmentError(std::string(what) + ": the communicator was aborted");
}

ncclResult_t NcclLink::state() {
  const std::lock_guard lock(mutex_);
  require_open("NCCL state");
  ncclResult_t found = ncclInProgress;
  const ncclResult_t asked = ncclCommGetAsyncError(comm_, &found);
  return asked == ncclSuccess ? found : asked;
}

// Calls of a communicator that does not block may return before they are queued.
void NcclLink::await(const char* what) {
  const auto deadline = Clock::now() + limit_, patience = Clock::now() + kSpin;
  ncclResult_t found = state();
  while (found == ncclInProgress) {
    if (Clock::now() > deadline)
      throw EnvironmentError(std::string(what) + ": not queued within " +
                             std::to_string(limit_.count() / 1000) +
                             " s; NCCL_DEBUG=INFO shows more");
    // Mostly it is a matter of microseconds, and a sleep takes 60 of them, for every sum of every
    // layer.
    if (Clock::now() > patience) std::this_thread::sleep_for(std::chrono::microseconds(10));
    found = state();
  }
  check(found, what);
}

std::string NcclLink::trouble() {
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock || comm_ == nullptr) return {};  // the call under way sees it, or the next look
  ncclResult_t found = ncclSuccess;
  const ncclResult_t asked = ncclCommGetAsyncError(comm_, &found);
  if (asked != ncclSuccess) found = asked;
  return found == ncclSuccess || found == ncclInProgress ? "" : "NCCL: " + text_of(found);
}

void NcclLink::abort() {
  const std::unique_lock lock(mutex_, kCallLimit);
  ncclComm_t doomed = std::exchange(comm_, nullptr);
  if (doomed != nullptr) ncclCommAbort(doomed);
}

}  // namespace demist
