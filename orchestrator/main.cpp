// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <csignal>
#include <optional>
#include <thread>

#include "core/log.hpp"
#include "orchestrator/cli.hpp"
#include "orchestrator/process.hpp"

namespace {

using namespace demist;

// One line for one failure: other ranks give rank 0, which may have the same to say, time to speak
// and to end the job.
void report(const mpi::Outcome& failure, const mpi::Comm& world) {
  using std::chrono::seconds;
  if (world.rank() > 0) std::this_thread::sleep_for(failure.agreed ? seconds(20) : seconds(2));
  log::error(failure.message);
}

}  // namespace

int main(int argc, char** argv) {
  // A write beyond a file-size limit is an error like a full disk, not the end.
  std::signal(SIGXFSZ, SIG_IGN);
  std::signal(SIGCHLD, SIG_DFL);  // ignored by some who start us: children would leave no code
  (void)own_program();
  const cli::Arguments arguments(argv + 1, argv + argc);
  std::optional<mpi::Session> session;  // outlives the attempt: unwinding must not finalize MPI
  mpi::Comm world;
  int code = 0;
  const mpi::Outcome outcome = mpi::attempt([&] {
    const cli::Command& command = cli::find_command(arguments);
    if (command.on_every_rank) session.emplace(&argc, &argv);
    if (session) world = session->world();
    log::configure(world.rank(), world.size());
    code = cli::run(command, arguments, world);
  });
  if (outcome.code == ExitCode::done) return code;
  report(outcome, world);
  code = static_cast<int>(outcome.code);
  if (session && world.size() > 1) session->abort(code);
  return code;
}
