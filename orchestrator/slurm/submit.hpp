// `demist submit`: from a recipe to jobs in the queue.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include "orchestrator/config.hpp"
#include "orchestrator/launch.hpp"

namespace demist::slurm {

// Submits the run's jobs and says what to do next; with live jobs of the same recipe it only names
// them. dry_run: prints the scripts and the commands. REQUIRES: launch.submission. Throws
// ConfigError, EnvironmentError. `record`: a run folder whose record says what is to run, whatever
// has become of the recipe; empty: the recipe does.
int submit(Launch launch, bool dry_run, const std::filesystem::path& record = {});

// Before the record of a run is written: throws ConfigError when that would change it under jobs
// that are to go on from it.
void keep_record_of_jobs(const RunConfig& run);

}  // namespace demist::slurm
