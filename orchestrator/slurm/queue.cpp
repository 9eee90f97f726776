// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/slurm/queue.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <ctime>
#include <fstream>
#include <map>
#include <sstream>

#include "core/checksum.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "orchestrator/nearest.hpp"
#include "orchestrator/process.hpp"

namespace demist::slurm {
namespace {

constexpr double kQueryPatience = 30;  // seconds
// A bar ends each: reasons hold blanks and commas.
constexpr const char* kQueueColumns =
    "--Format=JobID:|,State:|,Reason:|,RestartCnt:|,NodeList:|,StartTime:|,Comment:|";
constexpr const char* kHeader = "job\tcluster\tsubmitted\trecipe\tstage\tnodes";

std::vector<std::string> fields(const std::string& line, char separator) {
  std::vector<std::string> found;
  std::istringstream in(line);
  for (std::string field; std::getline(in, field, separator);) {
    field.erase(field.find_last_not_of(' ') + 1);
    found.push_back(field);
  }
  return found;
}

// Lines of at least `least` fields; others are not ours.
std::vector<std::vector<std::string>> table(const std::string& lines, char separator,
                                            std::size_t least) {
  std::vector<std::vector<std::string>> rows;
  std::istringstream in(lines);
  for (std::string line; std::getline(in, line);)
    if (auto row = fields(line, separator); row.size() >= least) rows.push_back(std::move(row));
  return rows;
}

double number(const std::string& text) {
  double value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

std::vector<std::string> with_cluster(std::vector<std::string> command, const std::string& name) {
  if (!name.empty()) command.push_back("--clusters=" + name);
  return command;
}

constexpr std::size_t kHashDigits = 12;  // of a hash in a comment

// Sites may change comments or leave them out; before folders had marks they ended with the recipe.
bool is_ours(const std::string& comment, const Job& job) {
  if (comment.empty() || comment == "(null)") return true;
  return comment == job_comment(job.recipe_hash, job.mark) ||
         comment == job_comment(job.recipe_hash, "");
}

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

QueueAnswer ask_one_cluster(const std::string& cluster, const std::vector<std::string>& ids) {
  const Captured said = capture_process({with_cluster({"squeue", "--noheader", "--states=all",
                                                       "--jobs=" + join(ids, ","), kQueueColumns},
                                                      cluster),
                                         {}},
                                        kQueryPatience);
  // It forgets jobs some minutes after their end.
  const bool forgotten = said.error.find("Invalid job id") != std::string::npos;
  if (said.code != 0 && !forgotten) return {false, first_line(said.error), {}};
  return {true, "", parse_queue(said.output)};
}

}  // namespace

bool QueueRow::is_live() const {
  static const char* const live[] = {"PENDING",     "RUNNING",   "CONFIGURING", "COMPLETING",
                                     "STOPPED",     "SUSPENDED", "REQUEUED",    "REQUEUE_HOLD",
                                     "RESIZING",    "SIGNALING", "STAGE_OUT",   "REQUEUE_FED",
                                     "SPECIAL_EXIT"};
  return std::any_of(std::begin(live), std::end(live),
                     [this](const char* word) { return state == word; });
}

std::string folder_mark(const fs::path& run_dir) {
  return sha256_hex(fs::weakly_canonical(fs::absolute(run_dir)).string()).substr(0, kHashDigits);
}

std::string job_comment(const std::string& recipe_hash, const std::string& mark) {
  return "demist:" + recipe_hash.substr(0, kHashDigits) + (mark.empty() ? "" : ":" + mark);
}

std::string job_line(const Job& job) {
  std::ostringstream line;
  line << job.id << '\t' << job.cluster << '\t' << static_cast<std::int64_t>(job.submitted) << '\t'
       << job.recipe_hash << '\t' << (job.stage.empty() ? "*" : job.stage) << '\t' << job.nodes;
  return line.str();
}

std::vector<Job> parse_jobs(const std::string& lines) {
  std::vector<Job> jobs;
  for (const auto& row : table(lines, '\t', 6))
    if (row[0] != "job")
      jobs.push_back(
          {row[0], row[1], number(row[2]), row[3], row[4] == "*" ? "" : row[4], row[5], ""});
  return jobs;
}

std::vector<Job> read_jobs(const fs::path& run_dir) {
  const fs::path file = run_dir / "jobs.tsv";
  if (!fs::exists(file)) return {};
  std::vector<Job> jobs = parse_jobs(read_file(file));
  for (Job& job : jobs) job.mark = folder_mark(run_dir);
  return jobs;
}

void append_job(const fs::path& run_dir, const Job& job) {
  const fs::path file = run_dir / "jobs.tsv";
  const bool fresh = !fs::exists(file);
  std::ofstream out(file, std::ios::app);
  if (fresh) out << kHeader << '\n';
  out << job_line(job) << '\n';
  out.flush();
  if (!out)
    throw EnvironmentError(file.string() + ": cannot write; job " + job.id +
                           " is submitted all the same: scancel " + job.id);
}

std::vector<QueueRow> parse_queue(const std::string& lines) {
  std::vector<QueueRow> rows;
  for (const auto& row : table(lines, '|', 6))
    rows.push_back({row[0], row[1], row[2], row[4], row[5], static_cast<int>(number(row[3])),
                    row.size() > 6 ? row[6] : ""});
  return rows;
}

std::vector<AccountRow> parse_accounting(const std::string& lines) {
  std::vector<AccountRow> rows;
  for (const auto& row : table(lines, '|', 5))
    // "CANCELLED by 1000"
    rows.push_back({row[0], row[1].substr(0, row[1].find(' ')), row[2], row[3], row[4]});
  return rows;
}

const QueueRow* QueueAnswer::find(const Job& job) const {
  for (const QueueRow& row : rows)
    if (row.id == job.id && is_ours(row.comment, job)) return &row;
  return nullptr;
}

QueueAnswer ask_queue(const std::vector<Job>& jobs) {
  std::map<std::string, std::vector<std::string>> of_cluster;
  for (const Job& job : jobs) of_cluster[job.cluster].push_back(job.id);
  QueueAnswer all{true, "", {}};
  for (const auto& [cluster, ids] : of_cluster) {
    QueueAnswer answer = ask_one_cluster(cluster, ids);
    if (!answer.answered) return answer;
    all.rows.insert(all.rows.end(), answer.rows.begin(), answer.rows.end());
  }
  return all;
}

std::optional<AccountRow> ask_accounting(const Job& job) {
  // Without a start it looks back to midnight only.
  const auto submitted = static_cast<std::time_t>(job.submitted) - 60;
  std::tm parts{};
  localtime_r(&submitted, &parts);
  std::array<char, 32> start{};
  std::strftime(start.data(), start.size(), "%FT%T", &parts);
  const Captured said =
      capture_process({with_cluster({"sacct", "--allocations", "--parsable2", "--noheader",
                                     "--jobs=" + job.id, std::string("--starttime=") + start.data(),
                                     "--format=JobIDRaw,State,ExitCode,Elapsed,NodeList"},
                                    job.cluster),
                       {}},
                      kQueryPatience);
  if (said.code != 0) return std::nullopt;
  const std::vector<AccountRow> rows = parse_accounting(said.output);
  if (rows.empty()) return std::nullopt;
  return rows.back();
}

}  // namespace demist::slurm
