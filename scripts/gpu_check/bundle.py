# SPDX-License-Identifier: Apache-2.0
"""The folder that gpu-check lies in: its programs, its libraries, and the machine's own from NVIDIA."""
import glob
import json
import os
import pathlib
import shutil
import sys
import tarfile
import tempfile

# Beside LD_LIBRARY_PATH, Python's packages and the loader's own folders.
TOOLKIT_FOLDERS = ("/usr/local/cuda*/lib64", "/usr/local/cuda*/targets/x86_64-linux/lib", "/opt/nvidia/*/lib")
# Where a machine has its driver; orchestrator/CMakeLists.txt asks the same list.
DRIVER_FOLDERS = tuple((pathlib.Path(__file__).parent / "driver_folders.txt").read_text(encoding="utf-8").split())
# nvidia-cuda-runtime, nvidia-cublas, nvidia-nccl: what PyTorch's wheels bring.
WHEEL_FOLDERS = ("nvidia/*/lib",)
MORE_PYTHONS = ("/opt/*/.venv/lib/python3*/site-packages", "/opt/*/lib/python3*/site-packages",
                "/usr/lib/python3/dist-packages", "/usr/local/lib/python3*/*-packages")


def library_folders():
    """Where NVIDIA's libraries may be, in the order of preference."""
    patterns = [folder for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    patterns += TOOLKIT_FOLDERS + DRIVER_FOLDERS
    for packages in [*sys.path, *MORE_PYTHONS]:
        patterns += [os.path.join(packages, folder) for folder in WHEEL_FOLDERS if packages]
    return [folder for pattern in patterns for folder in sorted(glob.glob(pattern), reverse=True)]


class Bundle:
    """bundle.json beside this package says what the programs want: {"programs": {name: [NVIDIA sonames]}, ...}."""

    def __init__(self, root):
        self.root = pathlib.Path(root).resolve()
        about = self.root / "bundle.json"
        if not about.exists():
            sys.exit(f"gpu-check: {self.root} is no bundle; `./dev gpu-bundle` makes one")
        self.about = json.loads(about.read_text(encoding="utf-8"))
        self._check_glibc()
        self.libraries = self._unpacked()
        self.nvidia = self._find_nvidia()

    def program(self, name):
        return str(self.root / "bin" / name)

    def missing(self, name):
        """NVIDIA's libraries that the program needs and this machine does not show."""
        return [soname for soname in self.about["programs"].get(name, []) if soname not in self.nvidia]

    def environment(self):
        environment = dict(os.environ, PYTHONDONTWRITEBYTECODE="1")
        if self.libraries is None:  # the programs use the system's
            return environment
        folders = [str(self.libraries), str(self.root / "bin"), *dict.fromkeys(str(p.parent) for p in self.nvidia.values())]
        folders += [f for f in os.environ.get("LD_LIBRARY_PATH", "").split(":") if f]
        environment["LD_LIBRARY_PATH"] = ":".join(dict.fromkeys(folders))
        # Open MPI asks these before the places it was built for, and /etc/openmpi is another installation's.
        environment.update(OPAL_PREFIX=str(self.root), OPAL_LIBDIR=str(self.libraries),
                           OPAL_PKGLIBDIR=str(self.libraries / "openmpi3"), OPAL_SYSCONFDIR=str(self.libraries),
                           OPAL_PKGDATADIR=str(self.libraries / "help"))
        return environment

    def _check_glibc(self):
        """Else every program would end with a riddle of the loader's."""
        def numbers(version):
            return [int(part) for part in version.split(".")]

        needed, here = self.about.get("glibc", "0"), (os.confstr("CS_GNU_LIBC_VERSION") or "glibc 0").split()[1]
        if numbers(here) < numbers(needed):
            sys.exit(f"gpu-check: this system has glibc {here}, and the bundle needs {needed} or newer: run it in a "
                     "container that has it (Debian 12, Ubuntu 24.04), or make the bundle on an older system")

    def _unpacked(self):
        """lib/ comes as an archive, a quarter of its size; it is unpacked once, here or in a temporary folder."""
        archive = self.root / "lib.tar.xz"
        if not archive.exists():
            return None
        for place in (self.root, pathlib.Path(tempfile.gettempdir()) / f"demist-{self.about['id']}"):
            if (place / "lib").is_dir():
                return place / "lib"
            try:
                place.mkdir(exist_ok=True)
                part = tempfile.mkdtemp(prefix="lib.", dir=place)
            except OSError:
                continue
            with tarfile.open(archive) as tar:
                tar.extractall(part)
            try:
                os.rename(os.path.join(part, "lib"), place / "lib")
            except OSError:  # another process was faster
                pass
            shutil.rmtree(part, ignore_errors=True)
            return place / "lib"
        sys.exit(f"neither {self.root} nor {tempfile.gettempdir()} can be written to: lib.tar.xz must be unpacked")

    def _find_nvidia(self):
        wanted = {soname for sonames in self.about["programs"].values() for soname in sonames}
        wanted.add("libcuda.so.1")  # libcudart loads it
        found = {}
        for folder in library_folders():
            for soname in wanted - set(found):
                path = pathlib.Path(folder) / soname
                if path.exists():
                    found[soname] = path
        return found
