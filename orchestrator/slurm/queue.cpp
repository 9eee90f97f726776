// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/slurm/queue.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <ctime>
#include <map>
#include <sstream>

#include "core/append_line.hpp"
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

bool is_live_state(const std::string& state) {
  static const char* const live[] = {"PENDING",     "RUNNING",   "CONFIGURING", "COMPLETING",
                                     "STOPPED",     "SUSPENDED", "REQUEUED",    "REQUEUE_HOLD",
                                     "RESIZING",    "SIGNALING", "STAGE_OUT",   "REQUEUE_FED",
                                     "SPECIAL_EXIT"};
  return std::any_of(std::begin(live), std::end(live),
                     [&](const char* word) { return state == word; });
}

bool is_denial(const Captured& said) {
  return said.code != 0 && said.error.find("Invalid job id") != std::string::npos;
}

QueueAnswer ask_squeue(const std::string& cluster, const std::vector<std::string>& ids) {
  const Captured said = capture_process({with_cluster({"squeue", "--noheader", "--states=all",
                                                       "--jobs=" + join(ids, ","), kQueueColumns},
                                                      cluster),
                                         {}},
                                        kQueryPatience);
  if (said.code != 0 && !is_denial(said))
    return {false, "squeue gives no answer: " + first_line(said.error), {}, {}, {}};
  QueueAnswer answer{true, "", parse_queue(said.output), {}, {}};
  // It forgets jobs some minutes after their end; asked for several it only leaves those out.
  if (is_denial(said) && ids.size() == 1) answer.denied.insert(ids.front());
  return answer;
}

// A word of Slurm's about one job: a row, that it is over (`known`, no row), or nothing.
struct Word {
  bool known = false;
  std::optional<QueueRow> row;
  std::string problem;
};

Word ask_controller(const Job& job) {
  std::vector<std::string> command{"scontrol", "--oneliner", "show", "job", job.id};
  if (!job.cluster.empty()) command.insert(command.begin() + 1, "--clusters=" + job.cluster);
  const Captured said = capture_process({command, {}}, kQueryPatience);
  if (is_denial(said)) return {true, std::nullopt, ""};
  if (const auto row = parse_shown_job(said.output); said.code == 0 && row && row->id == job.id)
    return {true, row, ""};
  const std::string why = first_line(said.error);
  return {false, std::nullopt, "scontrol gives no answer" + (why.empty() ? "" : ": " + why)};
}

Captured ask_sacct(const Job& job) {
  // Without a start it looks back to midnight only.
  const auto submitted = static_cast<std::time_t>(job.submitted) - 60;
  std::tm parts{};
  localtime_r(&submitted, &parts);
  std::array<char, 32> start{};
  std::strftime(start.data(), start.size(), "%FT%T", &parts);
  return capture_process(
      {with_cluster({"sacct", "--allocations", "--parsable2", "--noheader", "--jobs=" + job.id,
                     std::string("--starttime=") + start.data(),
                     "--format=JobIDRaw,State,ExitCode,Elapsed,NodeList,Comment"},
                    job.cluster),
       {}},
      kQueryPatience);
}

Word ask_accountant(const Job& job) {
  const Captured said = ask_sacct(job);
  const std::vector<AccountRow> rows = parse_accounting(said.output);
  const std::string why = first_line(said.error);
  if (said.code != 0)
    return {false, std::nullopt, "sacct gives no answer" + (why.empty() ? "" : ": " + why)};
  if (rows.empty()) return {false, std::nullopt, "sacct knows nothing of it"};
  const AccountRow& last = rows.back();
  if (!last.is_live()) return {true, std::nullopt, ""};
  return {true, QueueRow{last.id, last.state, "None", last.nodes, "", 0, last.comment}, ""};
}

// squeue does not show this one. `problem`: why the controller was not to be reached for another,
// which is not tried once more.
void look_further(const Job& job, std::string& problem, QueueAnswer& answer) {
  const Word shown = problem.empty() ? ask_controller(job) : Word{false, std::nullopt, problem};
  problem = shown.problem;
  const Word word = shown.known ? shown : ask_accountant(job);
  if (word.row)
    answer.rows.push_back(*word.row);
  else if (shown.known)
    answer.denied.insert(job.id);
  else if (!word.known)
    answer.untold[job.id] =
        "squeue does not show job " + job.id + ", " + shown.problem + ", " + word.problem;
}

}  // namespace

bool QueueRow::is_live() const { return is_live_state(state); }
bool QueueRow::is_waiting() const { return state == "PENDING" || state.starts_with("REQUEUE"); }
bool AccountRow::is_live() const { return is_live_state(state); }

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
  const std::string heading = fs::exists(file) ? "" : std::string(kHeader) + "\n";
  if (!append_line(file, heading + job_line(job)))
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
    rows.push_back({row[0], row[1].substr(0, row[1].find(' ')), row[2], row[3], row[4],
                    row.size() > 5 ? row[5] : ""});
  return rows;
}

std::optional<QueueRow> parse_shown_job(const std::string& line) {
  std::map<std::string, std::string> values;
  std::istringstream words(line);
  for (std::string word; words >> word;)
    if (const auto equals = word.find('='); equals != std::string::npos)
      values.try_emplace(word.substr(0, equals), word.substr(equals + 1));
  if (values["JobId"].empty() || values["JobState"].empty()) return std::nullopt;
  const auto known = [&](const char* name) {
    return values[name] == "(null)" || values[name] == "Unknown" ? "" : values[name];
  };
  return QueueRow{values["JobId"],    values["JobState"],
                  values["Reason"],   known("NodeList"),
                  known("StartTime"), static_cast<int>(number(values["Restarts"])),
                  known("Comment")};
}

const QueueRow* QueueAnswer::find(const Job& job) const {
  for (const QueueRow& row : rows)
    if (row.id == job.id && is_ours(row.comment, job)) return &row;
  return nullptr;
}

bool QueueAnswer::is_live(const Job& job) const {
  const QueueRow* row = find(job);
  return row != nullptr && row->is_live();
}

std::string QueueAnswer::doubt(const Job& job) const {
  if (!answered) return problem;
  const auto found = untold.find(job.id);
  return found == untold.end() ? "" : found->second;
}

std::string QueueAnswer::doubt(const std::vector<Job>& jobs) const {
  for (const Job& job : jobs)
    if (std::string why = doubt(job); !why.empty()) return why;
  return "";
}

QueueAnswer ask_queue(const std::vector<Job>& jobs, const std::set<std::string>& over) {
  std::map<std::string, std::vector<std::string>> of_cluster;
  for (const Job& job : jobs) of_cluster[job.cluster].push_back(job.id);
  QueueAnswer all{true, "", {}, {}, {}};
  for (const auto& [cluster, ids] : of_cluster) {
    QueueAnswer answer = ask_squeue(cluster, ids);
    if (!answer.answered) return answer;
    all.rows.insert(all.rows.end(), answer.rows.begin(), answer.rows.end());
    all.denied.merge(answer.denied);
  }
  std::erase_if(all.rows, [&](const QueueRow& row) {
    return row.state == "COMPLETING" && over.contains(row.id);
  });
  std::string problem;
  for (const Job& job : jobs) {
    const bool shown = std::any_of(all.rows.begin(), all.rows.end(),
                                   [&](const QueueRow& row) { return row.id == job.id; });
    if (!shown && !over.contains(job.id) && !all.denied.contains(job.id))
      look_further(job, problem, all);
  }
  return all;
}

std::vector<QueueRow> jobs_of_folder(const std::string& mark) {
  const Captured said =
      capture_process({{"squeue", "--me", "--noheader", kQueueColumns}, {}}, kQueryPatience);
  if (said.code == kNoSuchProgram) return {};
  if (said.code != 0) throw EnvironmentError("squeue gives no answer: " + first_line(said.error));
  std::vector<QueueRow> rows = parse_queue(said.output);
  std::erase_if(rows, [&](const QueueRow& row) {
    return !row.is_live() || row.state == "COMPLETING" || !row.comment.starts_with("demist:") ||
           !row.comment.ends_with(":" + mark);
  });
  return rows;
}

std::optional<AccountRow> ask_accounting(const Job& job) {
  const Captured said = ask_sacct(job);
  if (said.code != 0) return std::nullopt;
  const std::vector<AccountRow> rows = parse_accounting(said.output);
  if (rows.empty()) return std::nullopt;
  return rows.back();
}

}  // namespace demist::slurm
