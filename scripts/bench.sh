#!/usr/bin/env bash
# The measurements of docs/benchmarks.md. Usage: bench.sh BUILD_DIR [ROUNDS]
# With DEMIST_TORCH naming a Python that has PyTorch 2.x, Demist and PyTorch run in turn, ROUNDS times.
set -euo pipefail
build=$1
rounds=${2:-3}
here=$(dirname "$0")/..
step=$build/tests/step_bench
base="--layers 12 --d 768 --batch 8 --seq 256"
torch=${DEMIST_TORCH:-}

baseline() { # layers d heads vocab batch seq
  [ -n "$torch" ] || return 0
  for mode in "" --compile; do
    OMP_NUM_THREADS=2 OMP_PROC_BIND=true OMP_PLACES=cores "$torch" "$here/tests/bench/torch_baseline.py" --bf16 $mode \
      --layers "$1" --d "$2" --heads "$3" --vocab "$4" --batch "$5" --seq "$6" | sed "s/^/${mode:+compiled }/"
  done
}

for ((round = 1; round <= rounds; round++)); do
  echo "== round $round"
  "$step" --layers 6 --d 384 --heads 6 --vocab 8192 --batch 32 --seq 128 --steps 12
  baseline 6 384 6 8192 32 128
  # shellcheck disable=SC2086
  "$step" $base --heads 12 --vocab 32000 --steps 5
  baseline 12 768 12 32000 8 256
  # shellcheck disable=SC2086
  "$step" $base --heads 12 --vocab 250002 --steps 4
  baseline 12 768 12 250002 8 256
done
echo "== price of EXACT"
"$step" --layers 6 --d 384 --heads 6 --vocab 8192 --batch 32 --seq 128 --steps 12 --fast
# shellcheck disable=SC2086
"$step" $base --heads 12 --vocab 32000 --steps 5 --fast
"$build/tests/loader_bench"
