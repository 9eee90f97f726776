// What stands in the way of a run: work made with other settings, results that are gone, and files
// that are not there.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "orchestrator/config.hpp"
#include "orchestrator/stage_state.hpp"

namespace demist {

// Changes nothing. Throws what make_ready() would throw for the stages whose inputs are settled:
// those that depend on a stage with work to do are judged when it is done.
void check_stages(const RunConfig& run, bool redo);

// Throws DataError naming a file that a stage with work to do (`only`; empty: any) reads and that
// is not there, or a task's that lacks a column or a split: now, and not when the stages before it
// have run for days. What a PREPARE stage may still make is not missed.
void require_inputs(const RunConfig& run, const std::string& only);

// Of a stage that is done: what it read and what has been written since, by the date of the file.
// Its contents are not compared: copies of a run folder may have other dates.
std::optional<fs::path> newer_input(const RunConfig& run, const StageConfig& stage);

// How a stage stands. Throws when it holds work made with other settings, and when it is done but
// its result is gone, unless all who read that result are done too. REQUIRES: the stages that it
// depends on are done.
StageStatus require_sound(const RunConfig& run, const StageConfig& stage);

// The same before its processes start. With `redo`, what would throw is deleted or reopened, and so
// is every result that is gone. REQUIRES: nobody works in the run folder.
StageStatus make_ready(const RunConfig& run, const StageConfig& stage, bool redo);

}  // namespace demist
