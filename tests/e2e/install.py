#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `cmake --install` leaves is enough to run every recipe by its name, from any folder.

usage: install.py CMAKE BUILD_FOLDER
"""
import os
import pathlib
import re
import subprocess
import sys
import tempfile


def main():
    cmake, build = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="demist-install-") as root:
        subprocess.run([cmake, "--install", build, "--prefix", root], check=True, stdout=subprocess.DEVNULL)
        recipes = list(pathlib.Path(root).glob("share/demist/configs/*.textproto"))
        assert recipes, "no recipe is installed"
        for recipe in recipes:
            command = [f"{root}/bin/demist", "run", recipe.stem, "--dry-run"]
            resolved = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
            for stage in re.findall(r"stages \{.*?\n\}", resolved, re.DOTALL):
                program = re.search(r'^  command: "(/[^"]*)"', stage, re.MULTILINE)
                if program and not os.access(program[1], os.X_OK):
                    sys.exit(f"{recipe.name} needs {program[1]}, which is not installed")


if __name__ == "__main__":
    main()
