// The error tree: one class per documented exit code, thrown anywhere, caught once in main.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>
#include <string>

namespace demist {

// Exit codes of the `demist` command (README, "Exit codes").
enum class ExitCode : int {
  done = 0,
  internal = 1,     // a bug of ours
  usage = 2,        // command line or recipe
  data = 3,         // corpora, shards, tokenizers, tasks
  checkpoint = 4,   // unreadable or unsuitable checkpoint
  environment = 5,  // MPI, devices, file system
  numeric = 6,      // non-finite loss or gradient
  requeue = 75,     // saved, wants to go on: restart or requeue me
  suspect = 76,     // a rank hung or died: go on from the last checkpoint, without its machine if
                    // that happens again
  killed = 130,     // stopped at once by a second Ctrl-C: goes on from the last checkpoint
};

// what() is one line: what is wrong, where, and what to do. A name or a text that went into it may
// hold a newline, or an escape sequence for the terminal: control characters become blanks.
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& what) : std::runtime_error(one_line(what)), code_(code) {}
  ExitCode code() const noexcept { return code_; }

 private:
  static std::string one_line(std::string text) {
    for (char& c : text)
      if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
    return text;
  }

  ExitCode code_;
};

struct InternalError : Error {
  explicit InternalError(const std::string& what) : Error(ExitCode::internal, what) {}
};
struct ConfigError : Error {
  explicit ConfigError(const std::string& what) : Error(ExitCode::usage, what) {}
};
struct DataError : Error {
  explicit DataError(const std::string& what) : Error(ExitCode::data, what) {}
};
struct CheckpointError : Error {
  explicit CheckpointError(const std::string& what) : Error(ExitCode::checkpoint, what) {}
};
struct EnvironmentError : Error {
  explicit EnvironmentError(const std::string& what) : Error(ExitCode::environment, what) {}
};
// The system does not give this machine what it may give others: a mount that is stale, a disk that
// fails.
struct UnreadError : EnvironmentError {
  using EnvironmentError::EnvironmentError;
};
struct NumericError : Error {
  explicit NumericError(const std::string& what) : Error(ExitCode::numeric, what) {}
};

// A failure that every rank of the job knows of and throws: one report is enough.
struct AgreedError : Error {
  using Error::Error;
  std::string machine;  // the one at fault, where others have no such trouble; else empty
};

// Throws InternalError("<what>") when a condition that only a bug can break does not hold.
inline void ensure(bool condition, const char* what) {
  if (!condition) throw InternalError(what);
}

}  // namespace demist
