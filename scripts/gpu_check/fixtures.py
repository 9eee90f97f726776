#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a device answered in the conformance tests, call by call, and where two devices differ.

usage: fixtures.py FIRST.json SECOND.json     exit code 1 when they differ
"""
import json
import sys


def gather(lines):
    """{test: [answers in the order of the calls]} from the lines that the tests wrote."""
    answers = {}
    for line in lines:
        entry = json.loads(line)
        answers.setdefault(entry.pop("test"), []).append(entry)
    return answers


def differences(first, second):
    """One line a test whose answers are not the same bits, or that only one of them ran."""
    for test in sorted(set(first) | set(second)):
        if test not in first or test not in second:
            yield f"{test}: only in {'the first' if test in first else 'the second'}"
            continue
        places = [i for i, (a, b) in enumerate(zip(first[test], second[test])) if a != b]
        if len(first[test]) != len(second[test]):
            yield f"{test}: {len(first[test])} and {len(second[test])} answers"
        elif places:
            yield f"{test}: {len(places)} of {len(first[test])} answers differ, the first is number {places[0]}"


def main(first, second):
    answers = []
    for path in (first, second):
        with open(path, encoding="utf-8") as file:
            answers.append(json.load(file)["answers"])
    found = list(differences(*answers))
    print("\n".join(found) or f"{len(answers[0])} tests, the same answers")
    return 1 if found else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__.strip())
    sys.exit(main(*sys.argv[1:]))
