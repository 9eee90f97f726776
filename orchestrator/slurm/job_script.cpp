// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/slurm/job_script.hpp"

#include <algorithm>
#include <charconv>

#include "core/error.hpp"
#include "orchestrator/nearest.hpp"
#include "orchestrator/slurm/queue.hpp"

namespace demist::slurm {
namespace {

// Before modules and lines of setup, each of which is followed by a word about its exit code.
// Sites' scripts are not written for `set -e` and `set -u`.
constexpr const char* kPreparation = R"bash(
# What failed first. Old versions of `module` end with code 0 and only say that it did.
broken= said=$(mktemp) || said=/dev/null
module_loaded() { # exit code, module
  local code=$1
  cat "$said" >&2
  ! grep -q ':ERROR:' "$said" || code=1
  [ "$code" -eq 0 ] || [ -n "$broken" ] || broken="module $2 cannot be loaded: $(cat "$said")"
}
setup_done() { # exit code, line
  [ "$1" -eq 0 ] || [ -n "$broken" ] || broken="a line of the profile's setup ended with code $1: $2"
}
set +u
)bash";

// Shells hand on functions in the environment, which sbatch --export=NONE leaves behind.
constexpr const char* kFindModules = R"bash(
for init in "${MODULESHOME:-}/init/bash" "${LMOD_PKG:-}/init/bash" /etc/profile.d/{lmod,z00_lmod,modules}.sh; do
  [ -n "$(type -t module)" ] || [ ! -r "$init" ] || . "$init"
done
)bash";

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
# Whether the nodes to avoid may be others than at submission.
knows_bad_nodes() { [ -e "$run/bad-nodes" ] || [ -n "$avoided" ]; }
# Each of these jobs waits. Nodes that turned bad since it was submitted are kept from it, and those
# whose line in bad-nodes is gone are not. As many working nodes are left as it needs, else it might
# wait for ever: those that are listed longest have another chance. What fails is said, no more.
keep_off_bad_nodes() { # job ids
  local working never bad node job least problem
  local partition=${SLURM_JOB_PARTITION:-}
  if ! working=$(sinfo -h -N ${partition:+-p "$partition"} -o '%N %T'); then
    echo "sinfo gives no answer: job $* keeps the nodes that it may have"
    return 0
  fi
  working=$(awk '$2 !~ /[*]|down|drain|fail|power|unk|reboot|inval/ { print $1 }' <<<"$working" | sort -u)
  never=$([ -z "$never_on" ] || scontrol show hostnames "$never_on")
  for job; do
    least=$(awk -F '\t' -v job="$job" '$1 == job { print $6 + 0 }' "$run/jobs.tsv" | tail -n 1)
    bad=$(cut -f 1 "$run/bad-nodes" 2>/dev/null)
    while [ -n "$bad" ] &&
      [ "$(grep -cvxF -f <(printf '%s\n' '' $never $bad) <<<"$working")" -lt "${least:-1}" ]; do
      node=${bad%%$'\n'*}
      bad=$(tail -n +2 <<<"$bad")
      echo "job $job needs $least nodes: $node has another chance"
      event node_tried_again ",\"node\":\"$node\""
      awk -F '\t' -v node="$node" '$1 != node' "$run/bad-nodes" >"$run/bad-nodes.tmp" &&
        mv "$run/bad-nodes.tmp" "$run/bad-nodes"
    done
    bad=$(paste -sd , <<<"$bad")
    bad=$never_on${never_on:+${bad:+,}}$bad
    if problem=$(scontrol update "JobId=$job" "ExcNodeList=$bad" 2>&1); then
      echo "job $job is kept off nodes: ${bad:-none}"
    else
      echo "job $job may be given bad nodes ($bad): $problem"
    fi
  done
}
# Other jobs of this run: of a chain, of stages; not of the one that its folder was copied from.
waiting_jobs() {
  squeue -h -u "$(id -u)" -t PENDING -o '%i %k' |
    awk -v ours="$comment" '$2 == ours || $2 == "" || $2 == "(null)" { print $1 }' | grep -xF -f <(cut -f 1 "$run/jobs.tsv") |
    grep -vx "$SLURM_JOB_ID"
}

# With --no-kill Slurm takes a dead first node, where this script runs, out of the job and leaves the
# job alone, without script and ranks, until its time limit. So another node looks out for that.
watch_first_node() { # node
  local state restarts nodes end="scontrol requeue"
  [ "$chained" = no ] && [ "$max_requeues" -gt 0 ] || end=scancel
  while sleep 30; do
    IFS='|' read -r state restarts nodes < <(squeue -h -j "$SLURM_JOB_ID" -O 'State:|,RestartCnt:|,NodeList:|')
    # What is no answer, and what is told of another start, says nothing.
    [ "${state%% *} ${restarts%% *}" = "RUNNING $restart" ] || continue
    nodes=$(scontrol show hostnames "${nodes%%[ |]*}") && [ -n "$nodes" ] || continue
    ! grep -qxF -e "$1" <<<"$nodes" || continue
    event first_node_lost ",\"node\":\"$1\""
    $end "$SLURM_JOB_ID"
  done
}
# Its step shares what ranks have, and is started again where it ends: with its node, perhaps. What
# srun says of it is not to be taken for words about ranks.
keep_watch() {
  local nodes node
  trap 'kill $(jobs -p); exit' TERM
  while :; do
    nodes=$(squeue -h -j "$SLURM_JOB_ID" -o %N) && nodes=$(scontrol show hostnames "$nodes")
    node=$(grep -vxF -e "$SLURMD_NODENAME" <<<"$nodes" | head -n 1)
    if [ -n "$node" ]; then
      srun --overlap --no-kill --nodes=1 --ntasks=1 --ntasks-per-node=1 --cpus-per-task=1 --mem=0 \
        --mpi=none --cpu-bind=none --export=ALL --nodelist="$node" --job-name=watch \
        bash -c "$(declare -f event watch_first_node)
          $(declare -p run restart chained max_requeues); watch_first_node '$SLURMD_NODENAME'" &
      wait
    fi
    sleep 60 &
    wait
  done
}
watch=
end_watch() {
  [ -z "$watch" ] || kill "$watch" 2>/dev/null
  watch=
}

finish() { # exit code, reason
  end_watch
  event job_end ",\"code\":$1,\"reason\":\"$2\""
  echo "job $SLURM_JOB_ID ends with code $1: $2"
  if knows_bad_nodes && [ "$(wc -l <"$run/jobs.tsv")" -gt 2 ]; then
    others=$(waiting_jobs)
    [ -z "$others" ] || keep_off_bad_nodes $others
  fi
  exit "$1"
}

# The time limit is near ($stop_signal), or Slurm takes the nodes away (TERM): save, then stop.
pid= timed_out=
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
  [ -z "$asked" ] || kill -s "$stop_signal" "$pid" # it came before there was whom to tell
  wait "$pid"
  while kill -0 "$pid" 2>/dev/null; do wait "$pid"; done
  wait "$pid"
  code=$?
  pid=
}

# Changes with every checkpoint and every finished stage.
progress() { cat "$run"/*/checkpoints/LATEST "$run"/*/done.json 2>/dev/null | cksum; }

# Requeues of this job in a row that led to nothing new, as told when each was asked for in
# <run>/requeues: "job count progress".
count_requeues() {
  local job= count=0 last= now
  now=$(progress)
  [ ! -e "$run/requeues" ] || read -r job count last <"$run/requeues"
  in_vain=0
  [ "$job $last" != "$SLURM_JOB_ID $now" ] || in_vain=$((count + 1))
  [ "$in_vain" -lt "$max_requeues" ] || return 0
  echo "$SLURM_JOB_ID $in_vain $now" >"$run/requeues.tmp" && mv "$run/requeues.tmp" "$run/requeues"
}

requeue() {
  [ "$chained" = no ] || finish 75 "stopped; a next job of the chain goes on"
  [ "$max_requeues" -gt 0 ] || finish 75 "the cluster profile forbids requeues"
  # After scancel the job is completing: it is not to come back, unlike one that its time limit ended.
  # A query that fails says nothing.
  state=
  for try in 1 2 3 4 5; do
    state=$(squeue -h -j "$SLURM_JOB_ID" -o '%T %r' 2>/dev/null) && [ -n "$state" ] && break
    sleep "$try"
  done
  case $state in
    *TimeLimit | TIMEOUT*) timed_out=yes ;;
    COMPLETING* | CANCELLED*) finish 75 "cancelled; saved" ;;
  esac
  count_requeues
  [ "$in_vain" -lt "$max_requeues" ] || finish 75 "requeued $in_vain times in a row, and nothing new was saved"
  # Slurm ends this script, and what it runs, with TERM: not before its job, which waits then, is
  # told of bad nodes.
  end_watch
  trap '' "$stop_signal" TERM
  event job_requeue
  echo "job $SLURM_JOB_ID asks to be requeued"
  if scontrol requeue "$SLURM_JOB_ID"; then
    ! knows_bad_nodes || keep_off_bad_nodes "$SLURM_JOB_ID"
    trap - TERM
    kill -s TERM "$BASHPID"
  fi
  [ -z "$timed_out" ] || finish 75 "its time limit ended it, and it cannot be requeued any more"
  finish 75 "could not be requeued"
}

event job_start ",\"nodes\":\"$SLURM_JOB_NODELIST\""
echo "job $SLURM_JOB_ID, start $((restart + 1)), on $SLURM_JOB_NODELIST"
# On one line, in signs that JSON takes as they are.
[ -z "$broken" ] ||
  finish 2 "$(tr -s '\n\t"\\' ' ' <<<"$broken" | tr -cd ' -~' | cut -c 1-300 | sed 's/ *$//')"
if [ "${SLURM_JOB_NUM_NODES:-1}" -gt 1 ] && [ -n "${SLURMD_NODENAME:-}" ]; then
  keep_watch </dev/null >/dev/null 2>&1 &
  watch=$!
fi
failures=0
while :; do
  [ ! -e "$run/STOP" ] || finish 0 "stopped by demist cancel"
  [ -z "$asked" ] || requeue # what was not saved in time is done again
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
  [ -z "$asked" ] || requeue
  # Starting again here is cheaper than a requeue, as long as it leads somewhere.
  if [ "$(progress)" = "$before" ]; then failures=$((failures + 1)); else failures=0; fi
  [ "$failures" -lt 3 ] || finish "$code" "three attempts in a row saved nothing new"
  echo "job $SLURM_JOB_ID starts again after code $code"
  sleep $((failures * 5)) &
  wait $! # a signal cuts it short
done
)bash";

std::string comment_of(const JobPlan& plan) {
  return job_comment(plan.recipe_hash, folder_mark(plan.run_dir));
}

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

bool excludes(const std::string& option) { return value_of(option, "--exclude", "-x").has_value(); }

std::string directives(const JobPlan& plan) {
  std::string text = directive("--job-name=demist-" + plan.name) +
                     directive("--comment=" + comment_of(plan)) + size_directives(plan);
  if (!plan.profile.time.empty()) text += directive("--time=" + plan.profile.time);
  for (const std::string& option : plan.profile.sbatch)
    if (!excludes(option)) text += directive(option);
  // One list: of several options the last would hold.
  std::vector<std::string> excluded = never_on(plan.profile);
  excluded.insert(excluded.end(), plan.avoid.begin(), plan.avoid.end());
  if (!excluded.empty()) text += directive("--exclude=" + join(excluded, ","));
  text += directive("--chdir=" + quoted(plan.working_folder)) +
          directive("--output=" + quoted(plan.run_dir + "/logs/job-%j.log")) +
          directive("--open-mode=append");
  text += "# A dead node does not end the job: the supervisor goes on with the others.\n" +
          directive("--no-kill") + directive(plan.chained ? "--no-requeue" : "--requeue");
  if (plan.profile.stop_seconds == 0) return text;  // no warning: SIGTERM at the limit
  // "B:": to this script, which passes it on.
  return text + directive("--signal=B:" + plan.profile.stop_signal + "@" +
                          std::to_string(plan.profile.stop_seconds));
}

std::string preparation(const Profile& profile) {
  // A signal that comes before anything runs is not to end the script.
  std::string text =
      "asked= broken=\ntrap 'asked=$stop_signal' \"$stop_signal\"\ntrap 'asked=TERM' TERM\n";
  if (profile.modules.empty() && profile.setup.empty()) return text;
  text += kPreparation;
  if (!profile.modules.empty()) text += kFindModules;
  for (const std::string& module : profile.modules)
    text.append("module load ")
        .append(module)
        .append(" 2>\"$said\"\nmodule_loaded $? ")
        .append(quoted(module))
        .append("\n");
  for (const std::string& line : profile.setup)
    text.append(line).append("\nsetup_done $? ").append(quoted(line)).append("\n");
  return text + "set -u +e\n[ \"$said\" = /dev/null ] || rm -f \"$said\"\n";
}

std::string settings(const JobPlan& plan) {
  const Profile& profile = plan.profile;
  std::string text = "set -u\nrun=" + quoted(plan.run_dir) +
                     "\nstop_signal=" + profile.stop_signal + "\ncomment=" + comment_of(plan) +
                     "\nmax_requeues=" + std::to_string(profile.max_requeues) +
                     "\nchained=" + (plan.chained ? "yes" : "no") +
                     "\nnever_on=" + quoted(join(never_on(plan.profile), ",")) +
                     "\navoided=" + quoted(join(plan.avoid, ",")) + "\n";
  text += preparation(profile);
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
  std::string text = "supervisor=(" + quoted(plan.program) + " run " + quoted(plan.run_dir) +
                     "\n  --recorded --expect " + plan.recipe_hash + "\n  --launcher " +
                     quoted(join(launcher, " ")) + "\n  --ranks-per-node " +
                     std::to_string(plan.ntasks_per_node) + " --min-nodes " +
                     std::to_string(plan.nodes.least);
  if (!plan.stage.empty()) text += "\n  --stage " + quoted(plan.stage);
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

std::string job_script(const JobPlan& plan) {
  return "#!/bin/bash\n"
         "# Written by `demist submit`, which writes it anew each time; launch.json says "
         "from "
         "what.\n" +
         directives(plan) + "\n" + settings(plan) + supervisor(plan) + kBody;
}

}  // namespace demist::slurm
