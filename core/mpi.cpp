// SPDX-License-Identifier: Apache-2.0
#include "core/mpi.hpp"

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <limits>

#include "core/file.hpp"
#include "core/machine.hpp"
#include "core/mpi_handle.hpp"

namespace demist::mpi {

void check(int code, std::string_view call) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  throw EnvironmentError(std::string(call) + ": " + text.data());
}

Comm::Handle::~Handle() {
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (owned && finalized == 0) MPI_Comm_free(&raw);
}

namespace {

int narrow(std::size_t count) {
  if (count > static_cast<std::size_t>(std::numeric_limits<int>::max()))
    throw InternalError("MPI message longer than 2^31 elements");
  return static_cast<int>(count);
}

Comm owning(MPI_Comm raw, Heartbeat* heartbeat) {
  // The default handler ends the job before any check of ours sees a code.
  MPI_Comm_set_errhandler(raw, MPI_ERRORS_RETURN);
  return Comm(std::make_shared<Comm::Handle>(raw, true), heartbeat);
}

}  // namespace

Comm::Comm(std::shared_ptr<Handle> handle, Heartbeat* heartbeat)
    : handle_(std::move(handle)), heartbeat_(heartbeat) {
  check(MPI_Comm_rank(handle_->raw, &rank_), "MPI_Comm_rank");
  check(MPI_Comm_size(handle_->raw, &size_), "MPI_Comm_size");
}

int Comm::rank_in_job(int rank) const {
  if (!handle_) return rank;
  MPI_Group own = MPI_GROUP_NULL, job = MPI_GROUP_NULL;
  check(MPI_Comm_group(handle_->raw, &own), "MPI_Comm_group");
  check(MPI_Comm_group(MPI_COMM_WORLD, &job), "MPI_Comm_group");
  int found = rank;
  const int code = MPI_Group_translate_ranks(own, 1, &rank, job, &found);
  MPI_Group_free(&own);
  MPI_Group_free(&job);
  check(code, "MPI_Group_translate_ranks");
  return found;
}

Comm Comm::duplicate() const {
  if (!handle_) return *this;
  const Call call(*this, "duplicate");
  MPI_Comm raw = MPI_COMM_NULL;
  check(MPI_Comm_dup(handle_->raw, &raw), "MPI_Comm_dup");
  return owning(raw, heartbeat_);
}

Comm Comm::split(int color, int key) const {
  if (!handle_) return *this;
  const Call call(*this, "split");
  MPI_Comm raw = MPI_COMM_NULL;
  check(MPI_Comm_split(handle_->raw, color, key, &raw), "MPI_Comm_split");
  return owning(raw, heartbeat_);
}

Comm Comm::split_node() const {
  if (!handle_) return *this;
  const Call call(*this, "split");
  MPI_Comm raw = MPI_COMM_NULL;
  check(MPI_Comm_split_type(handle_->raw, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &raw),
        "MPI_Comm_split_type");
  return owning(raw, heartbeat_);
}

Comm Comm::watched_by(Heartbeat& heartbeat) const {
  Comm same = *this;
  same.heartbeat_ = &heartbeat;
  return same;
}

void Comm::barrier() const {
  if (size_ == 1) return;
  const Call call(*this, "barrier");
  check(MPI_Barrier(handle_->raw), "MPI_Barrier");
}

void Comm::broadcast(std::span<std::byte> bytes, int root) const {
  if (size_ == 1) return;
  const Call call(*this, "broadcast");
  check(MPI_Bcast(bytes.data(), narrow(bytes.size()), MPI_BYTE, root, handle_->raw), "MPI_Bcast");
}

std::string Comm::broadcast(std::string text, int root) const {
  if (size_ == 1) return text;
  const Call call(*this, "broadcast");
  std::int64_t size = static_cast<std::int64_t>(text.size());
  check(MPI_Bcast(&size, 1, MPI_INT64_T, root, handle_->raw), "MPI_Bcast");
  text.resize(static_cast<std::size_t>(size));
  broadcast(std::as_writable_bytes(std::span(text.data(), text.size())), root);
  return text;
}

std::vector<std::string> Comm::gather(std::string_view mine, int root) const {
  if (size_ == 1) return {std::string(mine)};
  const Call call(*this, "gather");
  const int count = narrow(mine.size());
  std::vector<int> counts(static_cast<std::size_t>(size_)), starts(counts);
  check(MPI_Gather(&count, 1, MPI_INT, counts.data(), 1, MPI_INT, root, handle_->raw),
        "MPI_Gather");
  std::size_t total = 0;
  if (rank_ == root)
    for (std::size_t r = 0; r < counts.size(); ++r) {
      starts[r] = narrow(total);
      total += static_cast<std::size_t>(counts[r]);
    }
  std::string all(total, '\0');
  check(MPI_Gatherv(mine.data(), count, MPI_BYTE, all.data(), counts.data(), starts.data(),
                    MPI_BYTE, root, handle_->raw),
        "MPI_Gatherv");
  std::vector<std::string> parts;
  if (rank_ == root)
    for (std::size_t r = 0; r < counts.size(); ++r)
      parts.push_back(
          all.substr(static_cast<std::size_t>(starts[r]), static_cast<std::size_t>(counts[r])));
  return parts;
}

std::int64_t Comm::all_reduce_max(std::int64_t value) const {
  if (size_ == 1) return value;
  const Call call(*this, "all_reduce");
  std::int64_t result = 0;
  check(MPI_Allreduce(&value, &result, 1, MPI_INT64_T, MPI_MAX, handle_->raw), "MPI_Allreduce");
  return result;
}

std::int64_t Comm::all_reduce_sum(std::int64_t value) const {
  if (size_ == 1) return value;
  const Call call(*this, "all_reduce");
  std::int64_t result = 0;
  check(MPI_Allreduce(&value, &result, 1, MPI_INT64_T, MPI_SUM, handle_->raw), "MPI_Allreduce");
  return result;
}

void Comm::send(std::string_view text, int to, int tag) const {
  const Call call(*this, "send");
  check(MPI_Send(text.data(), narrow(text.size()), MPI_BYTE, to, tag, handle_->raw), "MPI_Send");
}

std::pair<int, std::string> Comm::receive(int from, int tag) const {
  const Call call(*this, "receive");
  MPI_Status status;
  const int source = from == any_source ? MPI_ANY_SOURCE : from;
  check(MPI_Probe(source, tag, handle_->raw, &status), "MPI_Probe");
  int count = 0;
  check(MPI_Get_count(&status, MPI_BYTE, &count), "MPI_Get_count");
  std::string text(static_cast<std::size_t>(count), '\0');
  check(MPI_Recv(text.data(), count, MPI_BYTE, status.MPI_SOURCE, tag, handle_->raw, &status),
        "MPI_Recv");
  return {status.MPI_SOURCE, std::move(text)};
}

bool Comm::has_message(int from, int tag) const {
  int waiting = 0;
  check(MPI_Iprobe(from == any_source ? MPI_ANY_SOURCE : from, tag, handle_->raw, &waiting,
                   MPI_STATUS_IGNORE),
        "MPI_Iprobe");
  return waiting != 0;
}

namespace {

// Open MPI would end the process with a page of text.
void refuse_srun_without_mpi() {
  const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  if (tasks != nullptr && std::string(tasks) != "1" && !launched_by_mpi())
    throw EnvironmentError(std::string("srun started ") + tasks +
                           " tasks that do not know of each other; use srun --mpi=pmix, of the "
                           "PMIx that Open MPI was built with (srun --mpi=list, ompi_info)");
}

}  // namespace

Session::Session(int* argc, char*** argv) {
  refuse_srun_without_mpi();
  if (!launched_by_mpi()) {
    // A singleton asks for a daemon that bare machines lack,
    ::setenv("OMPI_MCA_ess_singleton_isolated", "1", 0);
    // and in a shell that srun started, for a PMIx that is not meant for it.
    ::unsetenv("SLURM_STEP_ID");
  }
  // Open MPI looks at the machine with hwloc, whose x86 component asks every core for its CPUID: up
  // to a second in a virtual machine, for what Linux has told already.
  ::setenv("HWLOC_COMPONENTS", "-x86", 0);
  int level = 0;
  check(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &level), "MPI_Init_thread");
  if (level < MPI_THREAD_FUNNELED)
    throw EnvironmentError("this MPI library offers no MPI_THREAD_FUNNELED; build it with threads");
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  world_ = Comm(std::make_shared<Comm::Handle>(MPI_COMM_WORLD, false));
}

Session::~Session() {
  world_ = Comm();
  MPI_Finalize();
}

void Session::abort(int code) const {
  MPI_Abort(MPI_COMM_WORLD, code);
  std::_Exit(code);
}

bool launched_by_mpi() {
  return std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr || std::getenv("PMIX_RANK") != nullptr ||
         std::getenv("PMI_RANK") != nullptr;
}

std::string library_version() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  if (MPI_Get_library_version(text.data(), &length) != MPI_SUCCESS) return "";
  // Open MPI goes on with who built it, where and when.
  const std::string version = text.data();
  return version.substr(0, version.find_first_of(",\n"));
}

std::string pmix_version() {
  std::string path;
  ::dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* found) {
        const std::string name = info->dlpi_name == nullptr ? "" : info->dlpi_name;
        const bool is_it = std::filesystem::path(name).filename().string().starts_with("libpmix.");
        if (is_it) *static_cast<std::string*>(found) = name;
        return is_it ? 1 : 0;
      },
      &path);
  if (path.empty()) return "";
  void* library = ::dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return "";
  const auto version = reinterpret_cast<const char* (*)()>(::dlsym(library, "PMIx_Get_version"));
  std::string text = version == nullptr ? "" : version();
  ::dlclose(library);
  text.resize(std::min(text.size(), text.find_first_of(",(")));
  while (text.ends_with(' ')) text.pop_back();
  return text;
}

Outcome attempt(const std::function<void()>& phase) {
  try {
    phase();
    return {};
  } catch (const AgreedError& error) {
    return {error.code(), error.what(), true, error.machine};
  } catch (const UnreadError& error) {
    return {error.code(), error.what(), false, node_name()};
  } catch (const Error& error) {
    return {error.code(), error.what()};
  } catch (const std::filesystem::filesystem_error& error) {
    return {ExitCode::environment,
            error.path1().string() + ": " + error.code().message() +
                "; check the path and its permissions",
            false, is_broken_storage(error.code().value()) ? node_name() : ""};
  } catch (const std::bad_alloc&) {
    return {ExitCode::environment,
            "out of memory; use fewer ranks on this machine, smaller micro-batches or a smaller "
            "model"};
  } catch (const std::exception& error) {
    return {ExitCode::internal, error.what()};
  }
}

void agree(const Comm& comm, const Outcome& mine, std::string_view phase) {
  const bool failed = mine.code != ExitCode::done;
  if (comm.size() == 1) {
    if (failed && !mine.machine.empty()) throw UnreadError(mine.message);
    if (failed) throw Error(mine.code, mine.message);
    return;
  }
  // The lowest failing rank wins: -1 when nobody failed.
  const std::int64_t first =
      comm.size() - comm.all_reduce_max(failed ? comm.size() - comm.rank() : 0);
  if (first == comm.size()) return;
  const int root = static_cast<int>(first);
  const auto code = static_cast<ExitCode>(
      comm.all_reduce_max(comm.rank() == root ? static_cast<std::int64_t>(mine.code) : 0));
  const std::string message = comm.broadcast(mine.message, root);
  const bool alike = comm.all_reduce_sum(mine.message == message ? 1 : 0) == comm.size();
  const bool everywhere = comm.all_reduce_sum(failed ? 1 : 0) == comm.size();
  AgreedError error(
      code,
      alike ? message : std::string(phase) + ": rank " + std::to_string(root) + ": " + message);
  const std::string machine = comm.broadcast(mine.machine, root);
  if (!everywhere) error.machine = machine;
  throw error;
}

void together(const Comm& comm, std::string_view phase, const std::function<void()>& body) {
  if (comm.size() == 1) return body();
  agree(comm, attempt(body), phase);
}

void together_alike(const Comm& comm, std::string_view phase, const std::function<void()>& body) {
  if (comm.size() == 1) return body();
  Outcome mine = attempt(body);
  const bool failed = mine.code != ExitCode::done;
  if (comm.all_reduce_sum(failed ? 0 : 1) > 0 && failed) {
    if (mine.code == ExitCode::data || mine.code == ExitCode::checkpoint) {
      mine.code = ExitCode::environment;
      mine.message += " (other ranks can read it)";
    }
    if (mine.code == ExitCode::environment) mine.machine = node_name();
  }
  agree(comm, mine, phase);
}

}  // namespace demist::mpi
