// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/slurm/job_script.hpp"

#include <algorithm>
#include <charconv>

#include "core/error.hpp"
#include "orchestrator/nearest.hpp"

namespace demist::slurm {
namespace {

// What a job does once its settings are made.
constexpr const char* kBody = R"bash(
restart=${SLURM_RESTART_COUNT:-0}
export DEMIST_JOB_LOG=$run/logs/job-$SLURM_JOB_ID.log

# One line of events.jsonl (docs/formats/events.md): its name, further fields as JSON. After a part of
# a line, which a full disk can leave, it begins a new one.
event() {
  [ -z "$(tail -c 1 "$run/events.jsonl" 2>/dev/null)" ] || echo >>"$run/events.jsonl"
  printf '{"time":%s,"event":"%s","job":"%s","restart":%s%s}\n' \
    "$(date +%s.%3N)" "$1" "$SLURM_JOB_ID" "$restart" "${2:-}" >>"$run/events.jsonl"
}
finish() { # exit code, reason
  event job_end ",\"code\":$1,\"reason\":\"$2\""
  echo "job $SLURM_JOB_ID ends with code $1: $2"
  exit "$1"
}

# The time limit is near ($stop_signal), or Slurm takes the nodes away (TERM): save, then stop.
asked= pid=
ask_to_stop() {
  asked=$1
  event job_signal ",\"signal\":\"$1\""
  [ -z "$pid" ] || kill -s "$stop_signal" "$pid"
}
trap 'ask_to_stop $stop_signal' "$stop_signal"
trap 'ask_to_stop TERM' TERM

# Runs the supervisor; its exit code is in $code. In the background, for bash runs a trap only when
# the command in the foreground is over; and `wait` returns early when a trap has run.
supervise() {
  "${supervisor[@]}" &
  pid=$!
  wait "$pid"
  while kill -0 "$pid" 2>/dev/null; do wait "$pid"; done
  wait "$pid"
  code=$?
  pid=
}

# Changes with every checkpoint and every finished stage.
progress() { cat "$run"/*/checkpoints/LATEST "$run"/*/done.json 2>/dev/null | cksum; }

requeue() {
  [ "$chained" = no ] || finish 75 "stopped; the next job of the chain goes on"
  [ "$restart" -lt "$max_requeues" ] || finish 75 "requeued $restart times, as often as it may be"
  # After scancel the job is completing: it is not to come back. A query that fails says nothing.
  state=
  for try in 1 2 3 4 5; do
    state=$(squeue -h -j "$SLURM_JOB_ID" -o %T 2>/dev/null) && [ -n "$state" ] && break
    sleep "$try"
  done
  case $state in
    COMPLETING | CANCELLED) finish 75 "cancelled; saved" ;;
  esac
  trap '' "$stop_signal"
  trap - TERM # Slurm ends this script with it
  event job_requeue
  echo "job $SLURM_JOB_ID asks to be requeued"
  if scontrol requeue "$SLURM_JOB_ID"; then
    sleep 300 # until then
  fi
  finish 75 "could not be requeued; demist resume goes on"
}

event job_start ",\"nodes\":\"$SLURM_JOB_NODELIST\""
echo "job $SLURM_JOB_ID, start $((restart + 1)), on $SLURM_JOB_NODELIST"
failures=0
while :; do
  [ ! -e "$run/STOP" ] || finish 0 "stopped by demist cancel"
  before=$(progress)
  supervise
  case $code in
    0) finish 0 "done" ;;
    1 | 2 | 3 | 4 | 6) finish "$code" "another attempt would end alike" ;;
    75)
      [ ! -e "$run/STOP" ] || finish 0 "stopped by demist cancel; saved"
      requeue
      ;;
  esac
  [ -z "$asked" ] || requeue # what was not saved in time is done again
  # Starting again here is cheaper than a requeue, as long as it leads somewhere.
  if [ "$(progress)" = "$before" ]; then failures=$((failures + 1)); else failures=0; fi
  [ "$failures" -lt 3 ] || finish "$code" "three attempts in a row saved nothing new"
  echo "job $SLURM_JOB_ID starts again after code $code"
  sleep $((failures * 5))
done
)bash";

std::string directive(const std::string& option) { return "#SBATCH " + option + "\n"; }

// Slurm takes a number of tasks a node as a limit on the nodes of a range: with a range, whole
// nodes or enough cores are asked for instead, and ranks are counted by the supervisor.
std::string size_directives(const JobPlan& plan) {
  std::string text = directive("--nodes=" + plan.nodes.text());
  const int cores = std::max(1, plan.profile.cpus_per_task);
  if (plan.nodes.is_range())
    return text + directive("--mincpus=" + std::to_string(plan.ntasks_per_node * cores));
  text += directive("--ntasks-per-node=" + std::to_string(plan.ntasks_per_node));
  if (plan.profile.cpus_per_task > 0) text += directive("--cpus-per-task=" + std::to_string(cores));
  return text;
}

std::string directives(const JobPlan& plan) {
  std::string text = directive("--job-name=demist-" + plan.name) +
                     directive("--comment=" + job_comment(plan)) + size_directives(plan);
  if (!plan.profile.time.empty()) text += directive("--time=" + plan.profile.time);
  for (const std::string& option : plan.profile.sbatch) text += directive(option);
  if (!plan.avoid.empty()) text += directive("--exclude=" + join(plan.avoid, ","));
  text += directive("--chdir=" + quoted(plan.working_folder)) +
          directive("--output=" + quoted(plan.run_dir + "/logs/job-%j.log")) +
          directive("--open-mode=append");
  text += "# A dead node does not end the job: the supervisor goes on with the others.\n" +
          directive("--no-kill") + directive(plan.chained ? "--no-requeue" : "--requeue");
  // "B:": to this script, which passes it on.
  return text + directive("--signal=B:" + plan.profile.stop_signal + "@" +
                          std::to_string(plan.profile.stop_seconds));
}

std::string settings(const JobPlan& plan) {
  const Profile& profile = plan.profile;
  std::string text = "set -u\nrun=" + quoted(plan.run_dir) +
                     "\nstop_signal=" + profile.stop_signal +
                     "\nmax_requeues=" + std::to_string(profile.max_requeues) +
                     "\nchained=" + (plan.chained ? "yes" : "no") + "\n";
  // Setup scripts of sites are not written for `set -u`.
  if (!profile.modules.empty() || !profile.setup.empty()) text += "set +u\n";
  for (const std::string& module : profile.modules) text += "module load " + module + "\n";
  for (const std::string& line : profile.setup) text += line + "\n";
  if (!profile.modules.empty() || !profile.setup.empty()) text += "set -u\n";
  for (const std::string& variable : profile.environment)
    text += "export " + quoted(variable) + "\n";
  return text;
}

std::string supervisor(const JobPlan& plan) {
  std::vector<std::string> launcher{"srun"};
  if (plan.profile.cpus_per_task > 0)  // srun does not take it over from sbatch since Slurm 22.05
    launcher.push_back("--cpus-per-task=" + std::to_string(plan.profile.cpus_per_task));
  launcher.insert(launcher.end(), plan.profile.srun.begin(), plan.profile.srun.end());
  launcher.insert(launcher.end(), plan.profile.container.begin(), plan.profile.container.end());
  std::string text =
      "supervisor=(" + quoted(plan.program) + " run " + quoted(plan.recipe) + "\n  --expect " +
      plan.recipe_hash + "\n  --launcher " + quoted(join(launcher, " ")) + "\n  --ranks-per-node " +
      std::to_string(plan.ntasks_per_node) + " --min-nodes " + std::to_string(plan.nodes.least);
  if (!plan.stage.empty()) text += "\n  --stage " + quoted(plan.stage);
  for (const std::string& assignment : plan.overrides) text += "\n  --set " + quoted(assignment);
  return text + ")\n";
}

}  // namespace

std::string NodeRange::text() const {
  const std::string text = std::to_string(least);
  return is_range() ? text + "-" + std::to_string(most) : text;
}

NodeRange parse_node_range(const std::string& text) {
  NodeRange range;
  const char* const end = text.data() + text.size();
  auto read = std::from_chars(text.data(), end, range.least);
  range.most = range.least;
  if (read.ec == std::errc() && read.ptr != end && *read.ptr == '-')
    read = std::from_chars(read.ptr + 1, end, range.most);
  if (read.ec != std::errc() || read.ptr != end || range.least < 1 || range.most < range.least)
    throw ConfigError("--nodes " + text +
                      ": expected a number of nodes, as 4, or the fewest and the most, as 2-4");
  return range;
}

std::string quoted(const std::string& text) {
  const bool plain = !text.empty() && text.find_first_not_of(
                                          "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                          "0123456789_-./=:,@%+") == std::string::npos;
  if (plain) return text;
  std::string result = "'";
  for (const char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

std::string job_comment(const JobPlan& plan) {
  constexpr std::size_t digits = 12;
  return "demist:" + plan.recipe_hash.substr(0, digits);
}

std::string job_script(const JobPlan& plan) {
  return "#!/bin/bash\n"
         "# Written by `demist submit`, which writes it anew each time; launch.json says "
         "from "
         "what.\n" +
         directives(plan) + "\n" + settings(plan) + supervisor(plan) + kBody;
}

}  // namespace demist::slurm
