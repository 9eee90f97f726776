// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include "core/error.hpp"
#include "orchestrator/cli.hpp"
#include "orchestrator/commands/commands.hpp"
#include "orchestrator/nearest.hpp"

namespace demist::cli {

const std::vector<Command>& commands() {
  static const std::vector<Command> table = {
      {"run", "every stage of a recipe, on this machine or in an allocation", false, run_recipe},
      {"train", "one stage of a recipe, as started by run, mpirun or srun", true, train},
      {"submit", "the stages of a recipe as Slurm jobs", false, submit},
      {"status", "what a run is doing", false, status},
      {"logs", "what a run says", false, logs},
      {"cancel", "save and stop a run", false, cancel},
      {"resume", "go on with a run that stopped", false, resume},
      {"corpus", "build, verify or show a token corpus", true, corpus},
      {"tokenizer", "train a tokenizer, encode or decode with one", false, tokenizer},
      {"generate", "answers of a trained model to prompts", false, generate},
      {"evaluate", "score a trained model on a file of prompts and responses", false, evaluate},
      {"checkpoint", "list, verify or prune the checkpoints of a run", false, checkpoints},
      {"inspect", "what a run, checkpoint, corpus, shard or tokenizer holds", false, inspect},
      {"doctor", "try what a run needs, on every node", true, doctor},
      {"help", "this page, or the page of one command", false, help},
      {"version", "the version of this program", false, version},
  };
  return table;
}

const Command& find_command(const Arguments& arguments) {
  std::string verb = arguments.empty() ? "help" : arguments.front();
  if (verb == "--help" || verb == "-h") verb = "help";
  if (verb == "--version") verb = "version";
  std::vector<std::string> known;
  for (const Command& command : commands()) {
    if (verb == command.name) return command;
    known.emplace_back(command.name);
  }
  const std::string near = nearest(verb, known);
  throw ConfigError(
      "unknown command '" + verb + "'" +
      (near.empty() ? "; `demist help` lists them" : "; did you mean '" + near + "'?"));
}

int run(const Command& command, const Arguments& arguments, const mpi::Comm& world) {
  const int code = command.run(
      arguments.empty() ? arguments : Arguments(arguments.begin() + 1, arguments.end()), world);
  // The last of what was printed may still be on its way; a full disk has swallowed what is lost.
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
    throw EnvironmentError(
        "standard output could not be written to its end; make room, or send it somewhere else");
  return code;
}

}  // namespace demist::cli
