#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Seconds from the kill (or stop) of one of four ranks to the next finished step under `demist run`.

usage: restart.py DEMIST CONFIGS [TIMES]   docs/benchmarks.md, "After a failure"
"""
import pathlib
import signal
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))
from run import Run, send  # noqa: E402


def measure(run, rank, how):
    run.wait_for_steps(30)
    begin = time.time()
    send(run.ranks()[rank], how)

    def first(lines, since):
        return next((line["time"] for line in lines if line["time"] > since), None)

    run.wait_for(lambda: first(run.events("attempt"), begin))
    restarted = first(run.events("attempt"), begin)
    run.wait_for(lambda: first(run.metrics("step"), restarted))
    named = first(run.events("rank_died", "hang"), begin)
    return [round(moment - begin, 2) for moment in (named, restarted, first(run.metrics("step"), restarted))]


def main():
    binary, configs = sys.argv[1:3]
    times = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    with tempfile.TemporaryDirectory(prefix="demist-restart-", ignore_cleanup_errors=True) as folder:
        run = Run(binary, configs, pathlib.Path(folder) / "run", "parallel.ranks=4", "stages.pretrain.steps=100000",
                  "checkpoint.every_steps=20").start()
        print("       named  restarted  next step")
        for i in range(2 * times):
            how = (signal.SIGKILL, signal.SIGSTOP)[i % 2]
            print(how.name, *measure(run, i % 4, how), sep="  ", flush=True)
        run.stop()


if __name__ == "__main__":
    main()
