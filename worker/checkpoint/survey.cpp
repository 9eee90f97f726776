// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/survey.hpp"

#include "core/error.hpp"
#include "core/log.hpp"
#include "worker/checkpoint/checkpoint.hpp"
#include "worker/checkpoint/manifest.hpp"

namespace demist::checkpoint {
namespace {

Surveyed look_at(const Entry& entry) {
  Surveyed found;
  found.entry = entry;
  try {
    const Checkpoint checkpoint(entry.path);
    for (const StoredFile& file : checkpoint.files()) found.bytes += file.bytes;
    found.held_out_loss = checkpoint.meta().held_out_loss;
    as_checkpoint_error([&] {
      const fs::path manifest = entry.path / kManifestName;
      found.bytes += fs::file_size(manifest);
      found.written = std::chrono::time_point_cast<std::chrono::system_clock::duration>(
          fs::file_time_type::clock::to_sys(fs::last_write_time(manifest)));
    });
  } catch (const Error& error) {  // damaged, or not to be read now
    found.problem = error.what();
  }
  return found;
}

}  // namespace

std::vector<Surveyed> survey(const fs::path& root, const Retention& keep) {
  std::vector<Surveyed> all;
  std::vector<std::size_t> usable;
  std::vector<Candidate> candidates;
  for (const Entry& entry : list_entries(root)) {
    all.push_back(look_at(entry));
    if (!all.back().problem.empty()) continue;
    usable.push_back(all.size() - 1);
    candidates.push_back({entry.step, all.back().held_out_loss});
  }
  const std::vector<std::string> reasons = reasons_to_keep(candidates, keep);
  for (std::size_t i = 0; i < usable.size(); ++i) all[usable[i]].reasons = reasons[i];
  return all;
}

void prune(const fs::path& root, const fs::path& written, const Retention& keep) {
  try {
    remove_leftovers(root);
  } catch (const Error& error) {  // older checkpoints are to go all the same
    log::warning(error.what());
  }
  for (const Surveyed& checkpoint : survey(root, keep))
    if (checkpoint.superfluous() && checkpoint.entry.path.filename() != written.filename())
      remove_entry(checkpoint.entry);
}

}  // namespace demist::checkpoint
