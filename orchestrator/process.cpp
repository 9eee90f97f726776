// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/process.hpp"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <string_view>
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

// Starts it in a process group of its own; the child's id, or the negated errno.
pid_t start(const ProcessSpec& spec, const posix_spawn_file_actions_t* files) {
  std::vector<std::string> words = spec.command, variables = merged_environment(spec.environment);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF);
  posix_spawnattr_setpgroup(&attributes, 0);
  sigset_t own_way;
  sigemptyset(&own_way);
  sigaddset(&own_way, SIGPIPE);
  posix_spawnattr_setsigdefault(&attributes, &own_way);
  pid_t pid = 0;
  const int error = posix_spawnp(&pid, words.front().c_str(), files, &attributes,
                                 pointers(words).data(), pointers(variables).data());
  posix_spawnattr_destroy(&attributes);
  return error == 0 ? pid : -error;
}

// The same, and it is asked to save and stop (SIGUSR1, which launchers hand to their ranks) when
// this process ends without a word: nobody would watch it, and it would hold the run folder.
// Between fork and exec only what is safe after a fork.
pid_t start_bound(const ProcessSpec& spec) {
  std::vector<std::string> words = spec.command, variables = merged_environment(spec.environment);
  const std::vector<char*> arguments = pointers(words), environment = pointers(variables);
  std::array<int, 2> failure{};
  if (::pipe2(failure.data(), O_CLOEXEC) != 0) return -errno;
  const pid_t parent = ::getpid(), pid = ::fork();
  if (pid == 0) {
    ::setpgid(0, 0);
    ::signal(SIGPIPE, SIG_DFL);
    ::prctl(PR_SET_PDEATHSIG, SIGUSR1);
    if (::getppid() == parent)  // else it has gone before
      ::execvpe(arguments.front(), arguments.data(), environment.data());
    const int reason = errno;
    (void)!::write(failure[1], &reason, sizeof reason);
    ::_exit(kNoSuchProgram);
  }
  int reason = pid < 0 ? errno : 0;
  ::close(failure[1]);
  if (pid > 0) {
    while (::read(failure[0], &reason, sizeof reason) < 0 && errno == EINTR) {
    }
    ::setpgid(pid, pid);  // whoever comes first
    if (reason != 0) ::waitpid(pid, nullptr, 0);
  }
  ::close(failure[0]);
  return reason != 0 ? -reason : pid;
}

int exit_code(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// The reading end of a child's output.
class Pipe {
 public:
  Pipe() {
    if (::pipe2(ends_.data(), O_CLOEXEC) != 0)
      throw EnvironmentError(std::string("cannot make a pipe: ") + std::strerror(errno));
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  ~Pipe() {
    close_writer();
    ::close(ends_[0]);
  }
  int reader() const { return ends_[0]; }
  int writer() const { return ends_[1]; }
  void close_writer() {
    if (ends_[1] >= 0) ::close(ends_[1]);
    ends_[1] = -1;
  }

 private:
  std::array<int, 2> ends_{};
};

// Appends what is there; false at the end of the stream.
bool read_some(int file, std::string& text) {
  std::array<char, 4096> part{};
  const ssize_t count = ::read(file, part.data(), part.size());
  if (count > 0) text.append(part.data(), static_cast<std::size_t>(count));
  return count > 0 || (count < 0 && errno == EINTR);
}

// Reads both streams until the child has closed them; false when that takes too long.
bool read_all(const Pipe& out, const Pipe& err, double patience_seconds,
              const std::function<bool()>& give_up, Captured& captured) {
  using std::chrono::steady_clock;
  constexpr std::int64_t longest_poll = 100;  // milliseconds
  const auto end = steady_clock::now() + std::chrono::duration<double>(patience_seconds);
  std::array<pollfd, 2> files{{{out.reader(), POLLIN, 0}, {err.reader(), POLLIN, 0}}};
  const std::array<std::string*, 2> texts{&captured.output, &captured.error};
  while (files[0].fd >= 0 || files[1].fd >= 0) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(end - steady_clock::now());
    if (left.count() <= 0 || (give_up && give_up())) return false;
    ::poll(files.data(), files.size(),
           static_cast<int>(std::min<std::int64_t>(left.count() + 1, longest_poll)));
    for (std::size_t i = 0; i < files.size(); ++i) {
      const bool ready = files[i].fd >= 0 && files[i].revents != 0;
      if (ready && !read_some(files[i].fd, *texts[i])) files[i].fd = -1;  // poll passes over it
      files[i].revents = 0;
    }
  }
  return true;
}

}  // namespace

const std::filesystem::path& own_program() {
  static const std::filesystem::path program = program_of(::getpid());
  return program;
}

std::filesystem::path program_of(int process) {
  constexpr std::string_view replaced = " (deleted)";  // what Linux appends
  std::error_code gone;
  const auto link = std::filesystem::path("/proc") / std::to_string(process) / "exe";
  std::string file = std::filesystem::read_symlink(link, gone).string();
  if (file.ends_with(replaced)) file.resize(file.size() - replaced.size());
  return file;
}

int run_process(const ProcessSpec& spec, const std::function<void(int pid)>& watch) {
  const pid_t pid = watch ? start_bound(spec) : start(spec, nullptr);
  if (pid < 0)
    throw EnvironmentError("cannot start " + spec.command.front() + ": " + std::strerror(-pid) +
                           "; install it, or correct PATH or the command");
  int status = 0;
  while (true) {
    const pid_t ended = waitpid(pid, &status, watch ? WNOHANG : 0);
    if (ended == pid) break;
    if (ended < 0 && errno != EINTR)
      throw EnvironmentError("lost " + spec.command.front() + ": " + std::strerror(errno));
    if (watch) {
      watch(pid);
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  }
  return exit_code(status);
}

Captured capture_process(const ProcessSpec& spec, double patience_seconds,
                         const std::function<bool()>& give_up) {
  Pipe out, err;
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&files, out.writer(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&files, err.writer(), STDERR_FILENO);
  const pid_t pid = start(spec, &files);
  posix_spawn_file_actions_destroy(&files);
  Captured captured;
  if (pid < 0) return {kNoSuchProgram, "", spec.command.front() + ": " + std::strerror(-pid)};
  out.close_writer();
  err.close_writer();
  if (!read_all(out, err, patience_seconds, give_up, captured)) {
    ::kill(-pid, SIGKILL);
    captured.error += spec.command.front() + " did not answer in time";
  }
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  captured.code = exit_code(status);
  return captured;
}

}  // namespace demist
