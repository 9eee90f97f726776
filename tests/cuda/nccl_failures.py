#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A rank fails while the devices of the others are in collectives with it: their watchdogs abort every communicator,
end the ranks with 76, and say who was at fault.

usage: nccl_failures.py RANKS PROGRAM MPIRUN...
"""
import json
import pathlib
import subprocess
import sys
import tempfile

SUSPECT = 76


def expect(condition, message):
    if not condition:
        sys.exit(message)


def fail(fault, ranks, program, mpirun):
    """The event, what was printed, and the exit codes of all ranks."""
    with tempfile.TemporaryDirectory() as folder:
        # Each rank's code counts, and mpirun must not do the watchdogs' work.
        script = f'"{program}" "$@"; echo "rank $OMPI_COMM_WORLD_RANK ended with $?"'
        done = subprocess.run([*mpirun, "-n", str(ranks), "sh", "-c", script, "sh", fault, folder],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100)
        lines = (pathlib.Path(folder) / "events.jsonl").read_text().splitlines()
        records = {path.name: json.loads(path.read_text()) for path in (pathlib.Path(folder) / "ranks").iterdir()}
        return [json.loads(line) for line in lines], records, done.stdout


def check(fault, event_name, ranks, program, mpirun):
    events, records, output = fail(fault, ranks, program, mpirun)
    at_fault = ranks - 1
    survivors = range(at_fault)
    for rank in survivors:
        expect(f"rank {rank} ended with {SUSPECT}" in output, f"{fault}: rank {rank} did not end:\n{output}")
    # Of two ranks only one of the groups has two ranks, of four both.
    communicators = 2 if ranks == 4 else 1
    aborts = output.count("emulated NCCL: aborted a communicator, 0 left")
    expect(aborts >= len(survivors), f"{fault}: communicators were left:\n{output}")
    expect(output.count("emulated NCCL: aborted") >= communicators * len(survivors), f"{fault}: too few aborts:\n{output}")
    expect("from a collective that cannot end" not in output, f"{fault}: a rank went on:\n{output}")
    expect(all(event["event"] == event_name for event in events), f"{fault}: {events}\n{output}")
    if event_name == "connection_lost":
        expect(all(event["call"] == "the device" and "remote process exited" in event["problem"] for event in events),
               f"{fault}: {events}")
        expect(all(record["agreed"] and record["code"] == SUSPECT for record in records.values()), f"{records}")
    else:
        expect(len(events) == 1 and events[0]["rank"] == at_fault, f"{fault}: {events}\n{output}")
        expect(list(records) == [f"test.{at_fault}.exit"] and records[f"test.{at_fault}.exit"]["code"] == SUSPECT,
               f"{fault}: {records}")


def main(ranks, program, *mpirun):
    for fault, event in (("dies", "rank_died"), ("stands still", "hang"), ("breaks", "connection_lost")):
        check(fault, event, int(ranks), program, mpirun)


if __name__ == "__main__":
    main(*sys.argv[1:])
