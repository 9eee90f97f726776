// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/catalog.hpp"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <optional>
#include <sstream>
#include <tuple>

#include "core/file.hpp"
#include "core/log.hpp"
#include "worker/checkpoint/checkpoint.hpp"
#include "worker/checkpoint/manifest.hpp"

namespace demist::checkpoint {
namespace {

constexpr std::string_view kPrefix = "step-", kTemporary = ".tmp", kReplaced = ".old",
                           kLatest = "LATEST.";

}  // namespace

std::string directory_name(std::int64_t step) {
  char name[32];
  std::snprintf(name, sizeof name, "step-%08lld", static_cast<long long>(step));
  return name;
}

std::optional<Entry> entry_at(const fs::path& directory) {
  std::error_code absent;
  const std::string name = directory.filename().string();
  if (!name.starts_with(kPrefix) || !fs::is_directory(directory, absent)) return {};
  Entry entry{.path = directory};
  const char* end = name.data() + name.size();
  const auto [rest, error] = std::from_chars(name.data() + kPrefix.size(), end, entry.step);
  if (error != std::errc() || entry.step < 0) return {};
  const std::string_view suffix(rest, end);
  entry.replaced = suffix == kReplaced;
  if (!suffix.empty() && !entry.replaced) return {};
  return entry;
}

std::vector<Entry> list_entries(const fs::path& root) {
  std::vector<Entry> entries;
  // What cannot be looked at is not empty: a network file system may be away.
  const fs::file_status status = fs::status(root);
  if (!fs::is_directory(status)) return entries;
  for (const fs::directory_entry& item : fs::directory_iterator(root))
    if (const auto entry = entry_at(item.path())) entries.push_back(*entry);
  std::ranges::sort(entries, [](const Entry& a, const Entry& b) {
    return std::tuple(b.step, a.replaced) < std::tuple(a.step, b.replaced);
  });
  return entries;
}

void refuse_unread(const fs::path& path, const std::error_code& error) {
  if (!is_wrong_path(error.value())) demist::refuse_unread(path, "use", error.value());
  throw CheckpointError(path.string() + ": " + error.message());
}

void publish(const fs::path& temporary, const fs::path& final_path) {
  const fs::path old = final_path.string() + std::string(kReplaced);
  // A directory cannot be renamed over a full one. A kill between the two renames leaves the .old
  // one, which readers accept.
  if (fs::exists(final_path)) {
    fs::remove_all(old);
    durable_rename(final_path, old);
  }
  durable_rename(temporary, final_path);
  std::error_code error;  // the save stands; remove_leftovers() tries again
  fs::remove_all(old, error);
  if (error)
    log::warning("the checkpoint is written, but " + old.string() +
                 " is not removed: " + error.message());
}

void remove_entry(const Entry& entry) {
  const fs::path leftover = entry.path.string() + std::string(kTemporary);
  fs::remove_all(leftover);
  fs::rename(entry.path, leftover);
  fs::remove_all(leftover);
}

void remove_leftovers(const fs::path& root) {
  for (const fs::directory_entry& item : fs::directory_iterator(root)) {
    const std::string name = item.path().filename().string();
    if ((name.starts_with(kPrefix) || name.starts_with(kLatest)) && name.ends_with(kTemporary))
      fs::remove_all(item.path());
  }
  for (const Entry& entry : list_entries(root))
    if (entry.replaced && fs::exists(root / directory_name(entry.step))) remove_entry(entry);
}

namespace {

Checkpoint open_whole(const Entry& entry, const mpi::Comm& comm = {}) {
  std::optional<Checkpoint> opened;
  mpi::together_alike(comm, "open checkpoint", [&] {
    opened.emplace(entry.path);
    if (opened->meta().step != entry.step)
      throw CheckpointError(entry.path.string() + ": holds step " +
                            std::to_string(opened->meta().step) + "; give it its name back");
  });
  mpi::together(comm, "verify checkpoint", [&] { opened->verify(comm.rank(), comm.size()); });
  return std::move(*opened);
}

std::vector<Entry> visible_entries(const fs::path& root) {
  try {
    return list_entries(root);
  } catch (const fs::filesystem_error& error) {
    throw UnreadError(root.string() + ": " + error.code().message() +
                      "; try again when its disk is back");
  }
}

}  // namespace

std::optional<Checkpoint> open_latest(const fs::path& root, const mpi::Comm& comm) {
  std::string list;  // "step name" lines
  mpi::together(comm, "find checkpoint", [&] {
    if (comm.rank() != 0) return;
    for (const Entry& entry : visible_entries(root))
      list += std::to_string(entry.step) + " " + entry.path.filename().string() + "\n";
  });
  std::istringstream lines(comm.broadcast(list, 0));
  int bad = 0;
  std::string name;
  for (Entry entry; lines >> entry.step >> name; ++bad) {
    entry.path = root / name;
    try {
      return open_whole(entry, comm);
    } catch (const Error& error) {
      if (error.code() != ExitCode::checkpoint) throw;
      log::warning("passing over a bad checkpoint: " + std::string(error.what()));
    }
  }
  if (bad == 0) return {};
  mpi::together(comm, "find checkpoint", [&] {
    throw CheckpointError(root.string() + ": none of its checkpoints (" + std::to_string(bad) +
                          ") is usable; restore one, or delete the folder of the stage, " +
                          root.parent_path().string() + ", to begin anew");
  });
  return {};
}

Checkpoint open_step(const fs::path& root, std::int64_t step) {
  for (const Entry& entry : visible_entries(root))
    if (entry.step == step) return open_whole(entry);
  return Checkpoint(root / directory_name(step));  // says that it is not there
}

Checkpoint open_any(const fs::path& path) {
  const auto entries = visible_entries(path);
  // A directory without a manifest that holds no checkpoints either: let the constructor say so.
  if (entries.empty() || fs::exists(path / kManifestName)) return Checkpoint(path);
  try {
    return open_whole(entries.front());
  } catch (const CheckpointError& error) {
    throw CheckpointError(std::string(error.what()) + " (the newest of " + path.string() +
                          "; another one is used when it is named)");
  }
}

}  // namespace demist::checkpoint
