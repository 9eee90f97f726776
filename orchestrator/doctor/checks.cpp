// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/doctor/checks.hpp"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <thread>

#include "core/file.hpp"
#include "core/h5.hpp"
#include "core/machine.hpp"
#include "kernels/backend.hpp"
#include "orchestrator/cores.hpp"
#include "orchestrator/doctor/arithmetic.hpp"
#include "orchestrator/progress.hpp"
#include "orchestrator/stage_state.hpp"
#include "worker/device.hpp"

namespace demist::doctor {
namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

class Examination {
 public:
  Examination(const mpi::Comm& world, fs::path folder)
      : world_(world), node_(world.split_node()), folder_(std::move(folder)) {
    found_.rank = world.rank();
    found_.host = node_name();
  }

  RankFindings run() {
    local("memory", [this] { look_at_memory(); });
    local("mpi", [this] { look_at_mpi(); });
    look_at_versions();
    look_at_clocks();
    look_at_folder();
    look_at_device();
    look_at_links();
    return std::move(found_);
  }

 private:
  // A check that throws before, after or without collectives, never between: what it throws is a
  // finding.
  bool local(const std::string& check, const std::function<void()>& body) {
    const mpi::Outcome outcome = mpi::attempt(body);
    if (!outcome.message.empty()) found_.problems[check] = outcome.message;
    return outcome.message.empty();
  }
  // A check with collectives: all ranks go through it, or none.
  bool all_passed(bool mine) { return world_.all_reduce_sum(mine ? 0 : 1) == 0; }

  void look_at_memory() {
    std::ifstream in("/proc/meminfo");
    std::string name, unit;
    double total = 0, available = 0;
    for (double kib = 0; in >> name >> kib; std::getline(in, unit)) {
      if (name == "MemTotal:") total = kib * 1024;
      if (name == "MemAvailable:") available = kib * 1024;
    }
    const auto bytes = [](double value) { return format_bytes(static_cast<std::uint64_t>(value)); };
    // Rounded, so that nodes of a kind say the same.
    const double round = 1e9;
    found_.facts["memory"] = bytes(std::floor(total / round + 0.5) * round) + " a node";
    constexpr double least = 1e9;
    if (available < least)
      throw EnvironmentError("only " + bytes(available) + " are free; end what else runs there");
  }

  void look_at_mpi() const {
    const std::string tasks = variable("SLURM_STEP_NUM_TASKS");
    if (!tasks.empty() && tasks != std::to_string(world_.size()))
      throw EnvironmentError("srun started " + tasks + " tasks, MPI sees " +
                             std::to_string(world_.size()) +
                             "; use srun --mpi=pmix, of the PMIx that Open MPI was built with "
                             "(srun --mpi=list, ompi_info)");
  }

  void look_at_versions() {
    const auto known = [](const std::string& version) {
      return version.empty() ? "not known" : version;
    };
    found_.versions["MPI"] = known(mpi::library_version());
    found_.versions["PMIx"] = known(mpi::pmix_version());
    found_.versions["HDF5"] = h5::library_version();
  }

  // After a barrier all ranks read their clocks within a round trip.
  void look_at_clocks() {
    world_.barrier();
    const auto mine = static_cast<std::int64_t>(unix_seconds() * 1e3);
    const std::string first = world_.broadcast(std::to_string(mine), 0);
    const double seconds = static_cast<double>(mine - std::stoll(first)) * 1e-3;
    constexpr double most = 2;  // seconds; heartbeats are compared between nodes
    if (std::abs(seconds) > most)
      found_.problems["clock"] =
          "differs from the first node's by " + std::to_string(seconds) + " s; run chrony or ntpd";
    else
      found_.facts["clock"] = "all within 2 s";
  }

  void look_at_folder() {
    const std::string name =
        world_.broadcast((folder_ / (".doctor-" + std::to_string(::getpid()))).string(), 0);
    const fs::path place = name;
    const bool made = local("folder", [&] {
      if (world_.rank() == 0) fs::create_directory(place);
    });
    if (!all_passed(made)) return;
    const auto own = [&](int rank) { return place / ("rank-" + std::to_string(rank)); };
    local("folder", [&] { atomic_write(own(world_.rank()), std::to_string(world_.rank())); });
    world_.barrier();
    local("folder", [&] { read_neighbour(own((world_.rank() + 1) % world_.size())); });
    local("locks", [&] { try_lock(place / ("lock-" + std::to_string(world_.rank()))); });
    local("hdf5", [&] { try_hdf5(place / ("file-" + std::to_string(world_.rank()) + ".h5")); });
    local("disk", [&] { measure_disk(place / ("disk-" + std::to_string(world_.rank()))); });
    world_.barrier();
    if (world_.rank() != 0) return;
    std::error_code left;  // a file that stays is no finding
    fs::remove_all(place, left);
  }

  void read_neighbour(const fs::path& file) {
    const double begin = steady_seconds();
    constexpr double patience = 10;  // seconds; network file systems cache what is absent
    while (!fs::exists(file) && steady_seconds() < begin + patience)
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    if (!fs::exists(file))
      throw EnvironmentError(folder_.string() +
                             " is not shared: what another rank wrote is not seen after 10 s; use "
                             "a folder on the cluster's file system");
    const MappedFile mapped(file);
    if (mapped.bytes().empty()) throw EnvironmentError(file.string() + ": maps as empty");
    found_.facts["folder"] = "rename, shared view and mmap work in " + folder_.string() + ", " +
                             (free_bytes(folder_) > 0 ? "not full" : "FULL");
    if (free_bytes(folder_) == 0) throw EnvironmentError(folder_.string() + " is full");
  }

  void try_lock(const fs::path& file) {
    const FileLock lock(file, 0);
    try {
      const FileLock second(file, 0);
    } catch (const EnvironmentError&) {
      found_.facts["locks"] = "work";
      return;
    }
    throw EnvironmentError("file locks are granted twice in " + folder_.string() +
                           "; mount it with locks (flock), else nothing keeps two runs out of one "
                           "folder");
  }

  void try_hdf5(const fs::path& file) {
    const std::vector<double> values(1000, 1.5);
    {
      h5::File out = h5::File::create(file);
      out.write("x", values);
      out.close();
    }
    if (h5::File::open(file).read_all<double>("x") != values)
      throw EnvironmentError("HDF5 reads other values than it wrote");
    found_.facts["hdf5"] = "writes and reads";
  }

  void measure_disk(const fs::path& file) {
    if (node_.rank() != 0) return;
    const std::string block(std::size_t{32} << 20, 'x');
    const double begin = steady_seconds();
    atomic_write(file, block);
    found_.values["disk"] = static_cast<double>(block.size()) / (steady_seconds() - begin);
  }

  // Making a device is collective and ends alike on all ranks.
  void look_at_device() {
    use_share_of_cores(world_, 0);
    Device device;
    if (!all_passed(local("device", [&] { device = make_device(DeviceKind::automatic, world_); })))
      return;
    found_.facts["device"] = device.backend->name();
    local("products", [&] { found_.values["products"] = product_rate(*device.backend); });
    std::unique_ptr<Communicator> communicator;
    if (!all_passed(local("all-reduce", [&] { communicator = device.communicator_over(world_); })))
      return;
    local("all-reduce", [&] {
      const double rate = all_reduce_rate(world_, *device.backend, *communicator);
      if (world_.size() > 1) found_.values["all-reduce"] = rate;
    });
  }

  // Rank 0 and the first rank of each other node, one after another: 1 MiB there and back.
  void look_at_links() {
    const int leader = node_.rank() == 0 && world_.rank() != 0 ? 1 : 0;
    const auto leaders = world_.gather(std::to_string(leader), 0);
    constexpr int tag = 1, rounds = 4;
    const std::string block(std::size_t{1} << 20, 'x');
    for (std::size_t other = 1; world_.rank() == 0 && other < leaders.size(); ++other)
      for (int i = 0; leaders[other] == "1" && i < rounds; ++i) {
        world_.send(block, static_cast<int>(other), tag);
        (void)world_.receive(static_cast<int>(other), tag);
      }
    if (leader == 0) return;
    double begin = 0;
    for (int i = 0; i < rounds; ++i) {
      const std::string text = world_.receive(0, tag).second;
      if (i == 0) begin = steady_seconds();  // until then it waited for its turn
      world_.send(text, 0, tag);
    }
    found_.values["link"] =
        2.0 * (rounds - 1) * static_cast<double>(block.size()) / (steady_seconds() - begin);
  }

  mpi::Comm world_, node_;
  fs::path folder_;
  RankFindings found_;
};

}  // namespace

RankFindings examine(const mpi::Comm& world, const fs::path& folder) {
  return Examination(world, folder).run();
}

}  // namespace demist::doctor
