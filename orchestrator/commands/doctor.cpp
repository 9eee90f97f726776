// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <cstdlib>

#include "core/error.hpp"
#include "core/file.hpp"
#include "orchestrator/commands/commands.hpp"
#include "orchestrator/doctor/checks.hpp"
#include "orchestrator/doctor/findings.hpp"

namespace demist::cli {
namespace {

// What rank 0 sees counts: other nodes that do not are a finding.
void refuse_absent(const mpi::Comm& world, const fs::path& folder) {
  std::error_code unknown;
  const bool is_there = world.rank() == 0 && fs::is_directory(folder, unknown);
  if (world.all_reduce_max(is_there ? 1 : 0) == 0)
    throw AgreedError(ExitCode::usage, folder.string() +
                                           ": no such folder; name the one where runs are to be "
                                           "kept, or make it first");
}

}  // namespace

int doctor(const Arguments& arguments, const mpi::Comm& world) {
  Options options(
      "demist doctor [FOLDER]",
      "Tries what a run needs: MPI, HDF5, the file system of FOLDER (default: the current one),\n"
      "clocks, memory, devices, matrix products and collectives, whose results are checked, and\n"
      "tells the versions of libraries. Under mpirun or srun it does so on every node, and names\n"
      "those that are slow or broken, or differ:\n"
      "  srun --nodes=4 --ntasks-per-node=1 --mpi=pmix demist doctor /scratch/me\n"
      "Exit code 5: something is broken.");
  options.rest("FOLDER", 0);
  if (!options.parse(arguments)) return 0;
  const auto& folders = options.positionals();
  if (folders.size() > 1) throw ConfigError("demist doctor takes one FOLDER");
  if (!folders.empty() && folders.front().empty())
    throw ConfigError("FOLDER is empty; name one, or leave it out for the current one");
  const fs::path folder = folders.empty() ? "." : folders.front();
  refuse_absent(world, folder);
  const doctor::RankFindings mine = doctor::examine(world, folder);
  const std::vector<std::string> texts = world.gather(doctor::to_json(mine), 0);
  bool broken = false;
  if (world.rank() == 0) {
    std::vector<doctor::RankFindings> ranks;
    for (const std::string& text : texts) ranks.push_back(doctor::findings_from_json(text));
    const std::vector<doctor::Line> lines = doctor::diagnose(ranks);
    std::printf("%d rank%s\n%s", world.size(), world.size() == 1 ? "" : "s",
                doctor::format(lines).c_str());
    std::fflush(stdout);
    broken = doctor::is_broken(lines);
  }
  return world.all_reduce_max(broken ? 1 : 0) != 0 ? static_cast<int>(ExitCode::environment) : 0;
}

}  // namespace demist::cli
