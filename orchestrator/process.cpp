// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/process.hpp"

#include <spawn.h>
#include <sys/wait.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <thread>

#include "core/error.hpp"

extern char** environ;

namespace demist {
namespace {

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> result;
  for (std::string& word : words) result.push_back(word.data());
  result.push_back(nullptr);
  return result;
}

std::vector<std::string> merged_environment(const std::map<std::string, std::string>& added) {
  std::vector<std::string> merged;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    if (!added.contains(text.substr(0, text.find('=')))) merged.push_back(text);
  }
  for (const auto& [name, value] : added) merged.push_back(name + "=" + value);
  return merged;
}

}  // namespace

int run_process(const ProcessSpec& spec, const std::function<void(int pid)>& watch) {
  std::vector<std::string> words = spec.command, variables = merged_environment(spec.environment);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  posix_spawnattr_setpgroup(&attributes, 0);
  pid_t pid = 0;
  const int error = posix_spawnp(&pid, words.front().c_str(), nullptr, &attributes,
                                 pointers(words).data(), pointers(variables).data());
  posix_spawnattr_destroy(&attributes);
  if (error != 0)
    throw EnvironmentError("cannot start " + words.front() + ": " + std::strerror(error) +
                           "; install it, or correct PATH or the command");
  int status = 0;
  while (true) {
    const pid_t ended = waitpid(pid, &status, watch ? WNOHANG : 0);
    if (ended == pid) break;
    if (ended < 0 && errno != EINTR)
      throw EnvironmentError("lost " + words.front() + ": " + std::strerror(errno));
    if (watch) {
      watch(pid);
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace demist
