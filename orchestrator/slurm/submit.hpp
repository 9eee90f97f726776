// `demist submit`: from a recipe to jobs in the queue.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "orchestrator/launch.hpp"

namespace demist::slurm {

// Submits the run's jobs and says what to do next; with live jobs of the same recipe it only names
// them. dry_run: prints the scripts and the commands. REQUIRES: launch.submission. Throws
// ConfigError, EnvironmentError.
int submit(Launch launch, bool dry_run);

}  // namespace demist::slurm
