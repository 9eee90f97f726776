#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Seconds from the kill (or stop) of one of four ranks to the next finished step under `demist run`.

usage: restart.py DEMIST CONFIGS [TIMES]   docs/benchmarks.md, "After a failure"
"""
import json
import os
import pathlib
import signal
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))
import failures  # noqa: E402


def after(run, name, begin):
    lines = (run.folder / name).read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["time"] > begin]


def measure(run, process, rank, how):
    run.wait_for_steps(process, 30)
    victim, begin = run.rank_process(process, rank), time.time()
    os.kill(victim, how)
    while True:
        attempts = [event for event in after(run, "events.jsonl", begin) if event["event"] == "attempt"]
        if attempts:
            steps = [line for line in after(run, "metrics.jsonl", attempts[0]["time"]) if line["event"] == "step"]
            if steps:
                break
        time.sleep(0.02)
    named = [event for event in after(run, "events.jsonl", begin) if event["event"] in ("rank_died", "hang")]
    return [round(event["time"] - begin, 2) for event in (named[0], attempts[0], steps[0])]


def main():
    binary, configs = sys.argv[1:3]
    times = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    with tempfile.TemporaryDirectory(prefix="demist-restart-", ignore_cleanup_errors=True) as folder:
        run = failures.Run(binary, configs, pathlib.Path(folder) / "run", "parallel.ranks=4",
                           "stages.pretrain.steps=100000", "checkpoint.every_steps=20")
        process = run.start()
        print("       named  restarted  next step")
        for i in range(2 * times):
            how = (signal.SIGKILL, signal.SIGSTOP)[i % 2]
            print(how.name, *measure(run, process, i % 4, how), sep="  ", flush=True)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


if __name__ == "__main__":
    main()
