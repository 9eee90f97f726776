// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include "orchestrator/commands/commands.hpp"

namespace demist::cli {

int help(const Arguments& arguments, const mpi::Comm& world) {
  if (!arguments.empty() && arguments.front() != "help" && arguments.front() != "--help")
    return find_command(arguments).run({"--help"}, world);
  std::printf(
      "Demist %s: diffusion language models from raw text\n\n"
      "usage: demist COMMAND ...\n\n",
      DEMIST_VERSION);
  for (const Command& command : commands())
    std::printf("  %-10s  %s\n", command.name, command.summary);
  std::printf(
      "\n`demist COMMAND --help` explains one. Start with `demist run quickstart`.\n"
      "Exit codes: 0 done, 1 internal error, 2 usage or recipe, 3 data, 4 checkpoint,\n"
      "5 environment (MPI, devices, files), 6 numeric, 75 stopped and saved: run me again,\n"
      "76 a rank died or hung: run me again, 130 stopped at once by a second Ctrl-C,\n"
      "128+n ended by signal n. The last checkpoint stands after each of them.\n");
  return 0;
}

int version(const Arguments&, const mpi::Comm&) {
  std::printf("demist %s\n", DEMIST_VERSION);
  return 0;
}

}  // namespace demist::cli
