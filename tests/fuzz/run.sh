#!/usr/bin/env bash
# Runs fuzz targets from their seeds, and fails when one of them finds something.
# tests/fuzz/run.sh BUILD SECONDS [TARGET...]: SECONDS each; without a TARGET, all of them
set -euo pipefail
build=$1 seconds=$2
shift 2
programs=$build/tests/fuzz work=$build/fuzz
targets=("$@")
if [ $# -eq 0 ]; then
  for program in "$programs"/*_fuzz; do targets+=("$(basename "$program" _fuzz)"); done
fi

# A file system in memory, where there is one: most targets write their input to a file.
scratch=$(mktemp -d /dev/shm/demist-fuzz-XXXXXX 2>/dev/null || mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export TMPDIR=$scratch OMP_NUM_THREADS=1
"$programs/fuzz_seeds" "$work/seeds"
mkdir -p "$work/findings" "$work/logs"

found=0
for target in "${targets[@]}"; do
  program=$programs/${target}_fuzz log=$work/logs/$target.log
  corpus=$work/corpus/$target  # grows from run to run
  mkdir -p "$corpus"
  options=(-max_total_time="$seconds" -max_len=8192 -len_control=0 -timeout=25 -rss_limit_mb=2048
           -print_final_stats=1 -artifact_prefix="$work/findings/$target-")
  [ -f "$work/seeds/$target.dict" ] && options+=(-dict="$work/seeds/$target.dict")
  if "$program" "${options[@]}" "$corpus" "$work/seeds/$target" >"$log" 2>&1; then
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    covered=$(sed -n 's/.*DONE *cov: \([0-9]*\).*/\1/p' "$log")
    echo "fuzz $target: $executions executions, $covered edges, nothing found"
    continue
  fi
  found=1
  grep -v '^#[0-9]' "$log" | tail -n 60
  input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
  echo "fuzz $target: FOUND something; all of it in $log"
  [ -n "$input" ] || continue
  echo "  input   $input"
  [ "$(stat -c %s "$input")" -gt 4000 ] || echo "  base64  $(base64 -w 0 "$input")"
  echo "  repeat  $program $input"
done
exit $found
