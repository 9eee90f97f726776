// What Slurm says about jobs. No answer says nothing; nor does an empty one of squeue alone.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace demist::slurm {

// A job that we submitted: a line of <run>/jobs.tsv.
struct Job {
  std::string id, cluster;  // cluster: "" but where sbatch named one
  double submitted = 0;     // Unix seconds
  std::string recipe_hash;
  std::string stage;  // "": all of them
  std::string nodes;  // as asked for
  std::string mark;   // of the folder that it was read in; not in the file
};
// Tells a run folder from a copy of it: a hash of where it lies.
std::string folder_mark(const std::filesystem::path& run_dir);
// What marks a job as that folder's and recipe's in squeue.
std::string job_comment(const std::string& recipe_hash, const std::string& mark);
std::string job_line(const Job& job);
std::vector<Job> parse_jobs(const std::string& lines);  // in the order of submission
std::vector<Job> read_jobs(const std::filesystem::path& run_dir);
void append_job(const std::filesystem::path& run_dir, const Job& job);

struct QueueRow {
  std::string id, state, reason, nodes;
  std::string start;  // of a pending job: expected, "2026-11-23T13:30:14", or "N/A"
  int restarts = 0;
  std::string comment;
  bool is_live() const;     // waits, runs or is being ended
  bool is_waiting() const;  // for its first start, or for another
};
struct AccountRow {
  std::string id, state, exit_code, elapsed, nodes;
  std::string comment;  // sites may not keep it
  bool is_live() const;
};
std::vector<QueueRow> parse_queue(const std::string& lines);
std::vector<AccountRow> parse_accounting(const std::string& lines);
// Of one line of `scontrol --oneliner show job`; none when it tells of no job.
std::optional<QueueRow> parse_shown_job(const std::string& line);

struct QueueAnswer {
  bool answered = false;
  std::string problem;  // why not
  std::vector<QueueRow> rows;
  // Jobs of which nobody could tell whether they live: by their id, what was asked for nothing.
  std::map<std::string, std::string> untold;
  std::set<std::string> denied;  // ids that Slurm's controller has said it does not know
  // None for a job whose comment tells of another recipe or another folder.
  const QueueRow* find(const Job& job) const;
  bool is_live(const Job& job) const;
  // Why it cannot be told whether this job lives; "": it can.
  std::string doubt(const Job& job) const;
  std::string doubt(const std::vector<Job>& jobs) const;  // of the first such job
};
// Rows of these jobs; of a reused id that is somebody else's by now, none. A job that squeue does
// not show is asked for by itself, of the controller and then of accounting, but for those in
// `over`: their scripts have told of their end, and nodes that Slurm is slow to tidy up may keep
// them COMPLETING for hours, which is no row.
QueueAnswer ask_queue(const std::vector<Job>& jobs, const std::set<std::string>& over);
// Jobs of this user that wait or run and whose comment names the folder of `mark`, whatever the
// recipe; none where there is no squeue. Throws EnvironmentError when it gives no answer.
std::vector<QueueRow> jobs_of_folder(const std::string& mark);
// What accounting knows of one job; nothing where there is no accounting.
std::optional<AccountRow> ask_accounting(const Job& job);

}  // namespace demist::slurm
