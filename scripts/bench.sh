#!/usr/bin/env bash
# The measurements of docs/benchmarks.md. Usage: bench.sh BUILD_DIR [ROUNDS]
# With DEMIST_TORCH naming a Python that has PyTorch 2.x, Demist and PyTorch (plain, compiled) run in turn.
set -euo pipefail
build=$1
rounds=${2:-3}
here=$(dirname "$0")/..
step=$build/tests/step_bench
torch=${DEMIST_TORCH:-}

compare() { # layers d heads vocab batch seq steps
  local shape=(--layers "$1" --d "$2" --heads "$3" --vocab "$4" --batch "$5" --seq "$6" --steps "$7") mode
  "$step" "${shape[@]}"
  [ -n "$torch" ] || return 0
  for mode in "" --compile; do
    OMP_NUM_THREADS=2 OMP_PROC_BIND=true OMP_PLACES=cores "$torch" "$here/tests/bench/torch_baseline.py" --bf16 $mode \
      "${shape[@]}" | sed "s/^/${mode:+compiled }/"
  done
}

price_of_exact() { # step_bench arguments
  "$step" "$@"
  "$step" "$@" --fast
}

for ((round = 1; round <= rounds; round++)); do
  echo "== round $round"
  compare 6 384 6 8192 32 128 12
  compare 12 768 12 32000 8 256 5
  compare 12 768 12 250002 8 256 4
  price_of_exact --layers 6 --d 384 --heads 6 --vocab 8192 --batch 32 --seq 128 --steps 8
  price_of_exact --layers 6 --d 384 --heads 6 --vocab 8192 --batch 8 --seq 128 --micro-batches 4 --steps 8
  price_of_exact --layers 12 --d 768 --heads 12 --vocab 32000 --batch 4 --seq 256 --micro-batches 2 --steps 4
  "$build/tests/loader_bench"
done
