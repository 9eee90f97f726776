// The command line: what a command accepts, its help page, and the table of commands.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/mpi.hpp"

namespace demist::cli {

using Arguments = std::vector<std::string>;

// Options and positional arguments of one command, then their values. Bad usage throws ConfigError.
class Options {
 public:
  // usage: "demist run RECIPE [options]"; about: what it does, in full sentences.
  Options(std::string usage, std::string about);
  ~Options();
  Options(const Options&) = delete;
  Options& operator=(const Options&) = delete;

  Options& flag(const std::string& name, const std::string& help);
  Options& value(const std::string& name, const std::string& placeholder, const std::string& help);
  Options& list(const std::string& name, const std::string& placeholder, const std::string& help);
  // Positional arguments in their order: one, and at the end any number from `least` on.
  Options& positional(const std::string& what);
  Options& rest(const std::string& what, std::size_t least);

  // False when the user asked for --help: the page is printed and there is nothing to do.
  bool parse(const Arguments& arguments);

  bool has(const std::string& name) const;
  std::optional<std::string> find(const std::string& name) const;
  std::string get(const std::string& name, const std::string& otherwise) const;
  // A whole number from `least` to the largest T.
  template <class T>
  T integer(const std::string& name, T otherwise, T least) const {
    return static_cast<T>(whole(name, static_cast<std::int64_t>(otherwise),
                                static_cast<std::int64_t>(least), largest<T>()));
  }
  double real(const std::string& name, double otherwise, double least,
              double most = std::numeric_limits<double>::infinity()) const;
  // One of `choices`, else ConfigError listing them.
  std::string choice(const std::string& name, const std::vector<std::string>& choices) const;
  const std::vector<std::string>& all(const std::string& name) const;
  const std::vector<std::string>& positionals() const;

 private:
  template <class T>
  static constexpr std::int64_t largest() {
    constexpr auto all = static_cast<std::uint64_t>(std::numeric_limits<T>::max());
    return static_cast<std::int64_t>(std::min(all, ~std::uint64_t{0} >> 1));
  }
  std::int64_t whole(const std::string& name, std::int64_t otherwise, std::int64_t least,
                     std::int64_t most) const;
  [[noreturn]] void refuse(const std::string& problem) const;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct Command {
  const char* name;
  const char* summary;
  bool on_every_rank;  // joins MPI: its ranks work together
  int (*run)(const Arguments& arguments, const mpi::Comm& world);
};
const std::vector<Command>& commands();

// Finds the command of the first argument; throws ConfigError with the nearest name. Without
// arguments, or for --help and --version, the general page's command.
const Command& find_command(const Arguments& arguments);
// Runs it on the remaining arguments; returns the exit code.
int run(const Command& command, const Arguments& arguments, const mpi::Comm& world);

// A command with actions of its own ("demist corpus build"): runs the one that the first argument
// names; --help or nothing lists them.
using Action = int (*)(const Arguments& arguments, const mpi::Comm& world);
int run_action(const std::string& command,
               const std::vector<std::pair<std::string, Action>>& actions,
               const Arguments& arguments, const mpi::Comm& world);

}  // namespace demist::cli
