// Child processes: start one, wait for it, pass signals on, or keep what it said.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace demist {

// The file of this program where it lay at the first call, which main makes: a newer one may have
// taken its place since.
const std::filesystem::path& own_program();
// The file of a running one, or where it lay before it was replaced. Empty when that cannot be
// told.
std::filesystem::path program_of(int process);

struct ProcessSpec {
  std::vector<std::string> command;                // program (looked up in PATH) and arguments
  std::map<std::string, std::string> environment;  // added to ours
};

// Runs it in a process group of its own, so that a Ctrl-C in the terminal reaches only us. While it
// runs, `watch` is called several times a second with the child's process id (for passing signals
// on); a watched child gets SIGUSR1 when this process is killed. A child dies of SIGPIPE as others
// do, whatever this process does. Returns its exit code, or 128 + signal. Throws EnvironmentError
// when it cannot be started.
int run_process(const ProcessSpec& spec, const std::function<void(int pid)>& watch = {});

inline constexpr int kNoSuchProgram = 127;  // as of a shell

struct Captured {
  int code = 0;  // as of run_process, or kNoSuchProgram
  std::string output, error;
};
// Runs it with an empty standard input and keeps what it wrote. One that takes longer than
// `patience_seconds`, or until `give_up` says so (asked ten times a second), is killed: code 137,
// and `error` says so.
Captured capture_process(const ProcessSpec& spec, double patience_seconds,
                         const std::function<bool()>& give_up = {});

}  // namespace demist
