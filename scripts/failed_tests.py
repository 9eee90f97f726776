#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Says again how the tests of a ctest run failed, where the end of a long log shows it.

usage: failed_tests.py RESULTS.xml   (what `ctest --output-junit RESULTS.xml` wrote)
"""
import sys
import xml.etree.ElementTree

LINES = 40  # of a test's output: its end names the failure


def failures(path):
    for case in xml.etree.ElementTree.parse(path).iter("testcase"):
        if case.get("status") == "fail":
            output = (case.findtext("system-out") or "").rstrip().splitlines()
            yield case.get("name"), output[-LINES:]


def main():
    for name, lines in failures(sys.argv[1]):
        print(f"\n{name} failed:")
        print("\n".join(f"  {line}" for line in lines))


if __name__ == "__main__":
    main()
