// One function per command; each stands in a file of its name.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/mpi.hpp"
#include "orchestrator/cli.hpp"

namespace demist::cli {

// Arguments follow the command's name. `world` has one rank unless the command joins MPI.
int run_recipe(const Arguments& arguments, const mpi::Comm& world);
int train(const Arguments& arguments, const mpi::Comm& world);
int submit(const Arguments& arguments, const mpi::Comm& world);
int status(const Arguments& arguments, const mpi::Comm& world);
int logs(const Arguments& arguments, const mpi::Comm& world);
int cancel(const Arguments& arguments, const mpi::Comm& world);
int resume(const Arguments& arguments, const mpi::Comm& world);
int corpus(const Arguments& arguments, const mpi::Comm& world);
int checkpoints(const Arguments& arguments, const mpi::Comm& world);
int tokenizer(const Arguments& arguments, const mpi::Comm& world);
int generate(const Arguments& arguments, const mpi::Comm& world);
int evaluate(const Arguments& arguments, const mpi::Comm& world);
int inspect(const Arguments& arguments, const mpi::Comm& world);
int doctor(const Arguments& arguments, const mpi::Comm& world);
int help(const Arguments& arguments, const mpi::Comm& world);
int version(const Arguments& arguments, const mpi::Comm& world);

}  // namespace demist::cli
