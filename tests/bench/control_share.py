#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The part of a step that control messages and reports take, on four ranks: the longest of all ranks' times.

usage: control_share.py DEMIST CONFIGS [RUNS]   docs/benchmarks.md, "Control"
"""
import pathlib
import statistics
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))
import exactness  # noqa: E402

RANKS, WARM_UP = 4, 10
SHAPES = {
    "tiny": ["stages.pretrain.steps=300"],
    "3 layers, d=192, 8 x 1,024 tokens": [
        "stages.pretrain.steps=60", "model.layers=3", "model.hidden=192", "stages.pretrain.batch.micro_batches=8",
        "stages.pretrain.batch.max_tokens=1024"],
}


def measure(binary, configs, settings):
    """Of each step after the first ones: its seconds, and those of control."""
    with tempfile.TemporaryDirectory(prefix="demist-control-") as root:
        bench = exactness.Bench(binary, configs, "BF16", root)
        bench.settings += ["checkpoint.every_steps=0", *settings]
        bench.fresh("run")
        run = bench.start("run", "pretrain", RANKS, 1)
        run.finish()
        steps = run.metrics("step")
    # A line has the control of the step before.
    return [(step["seconds"], after["control_seconds"]) for step, after in zip(steps[WARM_UP:], steps[WARM_UP + 1:])]


def main():
    binary, configs = sys.argv[1:3]
    runs = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    for name, settings in SHAPES.items():
        shares = []
        for _ in range(runs):
            steps = measure(binary, configs, settings)
            typical = statistics.median(seconds for seconds, _ in steps)
            control = statistics.median(control for _, control in steps)
            shares.append(sum(control for _, control in steps) / sum(seconds for seconds, _ in steps))
            print(f"{name}: step {1e3 * typical:.1f} ms, control {1e6 * control:.0f} us (medians), "
                  f"{100 * shares[-1]:.3f} % of all time, {100 * control / typical:.3f} % of the median step", flush=True)
        print(f"{name}: median of {runs} runs {100 * statistics.median(shares):.3f} %")


if __name__ == "__main__":
    main()
