"""Fails when a source file is longer than 500 lines (tests: 700). Usage: check_sizes.py FILE..."""
import sys

too_long = []
for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as source:
        lines = sum(1 for _ in source)
    limit = 700 if path.startswith("tests/") else 500
    if lines > limit:
        too_long.append(f"{path}: {lines} lines, the limit is {limit}: split it by idea")
if too_long:
    sys.exit("\n".join(too_long))
