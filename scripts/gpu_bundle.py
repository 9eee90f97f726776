#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Packs what a machine with a GPU and the CUDA 13 libraries needs to run gpu-check.

usage: gpu_bundle.py BUILD_DIR BUNDLE_DIR

Programs are stripped; every shared library they need goes along in lib.tar.xz, except glibc's, which belongs to
the system's loader, and NVIDIA's, which belong to its driver. Fails when a library is missing from the bundle, or
when the bundle is larger than 60 MiB.
"""
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

SOURCE = pathlib.Path(__file__).resolve().parent.parent
LIMIT_BYTES = 60 * 2**20

# In the build folder, and in bin/ of the bundle.
PROGRAMS = {
    "orchestrator/demist": "demist",
    "orchestrator/libdemist_cuda.so": "libdemist_cuda.so",
    "tests/cuda/cuda_bench": "cuda_bench",
    "tests/cuda/cuda_device_tests": "cuda_tests",
    "tests/cuda/cuda_communicator_device_test": "cuda_communicator_test",
    "tests/cuda/cuda_trainer_device_test": "cuda_trainer_test",
    "tests/cuda/cuda_nccl_device_test": "cuda_nccl_test",
}
GLIBC = re.compile(r"^(linux-vdso|ld-linux-x86-64|lib(c|m|dl|rt|pthread|resolv|util|anl|mvec|nsl))\.so")
NVIDIA = re.compile(r"^lib(cuda|cudart|cublas|cublasLt|cudnn\w*|nccl|nvrtc|nvJitLink|nvidia-\w+)\.so")
OWN = re.compile(r"^libdemist_")

LAUNCHER = """#!/bin/sh
# Starts Demist with the libraries of this folder.
exec python3 -B "$(dirname "$0")/gpu_check" {arguments} "$@"
"""


def needed(path, folder=None):
    """{soname: path or None} of everything that the loader would load for a file."""
    environment = dict(os.environ, LC_ALL="C")
    if folder:
        environment["LD_LIBRARY_PATH"] = str(folder)
    text = subprocess.run(["ldd", str(path)], env=environment, check=True, capture_output=True, text=True).stdout
    found = {}
    for line in text.splitlines():
        words = line.split()
        if words and not words[0].startswith("statically"):
            found[pathlib.Path(words[0]).name] = words[2] if len(words) > 2 and words[2] != "not" else None
    return found


def to_pack(sonames):
    return {s for s in sonames if not GLIBC.match(s) and not NVIDIA.match(s) and not OWN.match(s)}


def open_mpi_folders():
    """Where Open MPI keeps its plugins and the texts of its errors."""
    text = subprocess.run(["ompi_info", "--parsable", "--path", "all"], check=True, capture_output=True, text=True).stdout
    paths = dict(line.split(":")[1:3] for line in text.splitlines() if line.startswith("path:"))
    return pathlib.Path(paths["pkglibdir"]), pathlib.Path(paths["pkgdatadir"])


def strip(source, target):
    subprocess.run(["strip", "--strip-unneeded", "-o", str(target), str(source)], check=True)


def copy_programs(build, bundle):
    """Returns {program: [NVIDIA sonames]} and the libraries of all of them."""
    (bundle / "bin").mkdir(parents=True)
    wants, libraries = {}, {}
    for source, name in PROGRAMS.items():
        strip(build / source, bundle / "bin" / name)
        found = needed(build / source)
        wants[name] = sorted(soname for soname in found if NVIDIA.match(soname))
        libraries.update({soname: found[soname] for soname in to_pack(found)})
    wants["demist"] = wants["libdemist_cuda.so"]  # loaded when it runs on a GPU
    return wants, libraries


def copy_libraries(libraries, lib):
    """And the Open MPI plugins that need nothing else: those for networks bring a dozen libraries each."""
    lib.mkdir()
    for soname, path in libraries.items():
        if path is None:
            sys.exit(f"gpu-bundle: {soname} is not on this machine; ./dev packages installs what the build needs")
        shutil.copyfile(os.path.realpath(path), lib / soname)
    plugins, texts = open_mpi_folders()
    (lib / "openmpi3").mkdir()
    for plugin in sorted(plugins.glob("mca_*.so")):
        if to_pack(needed(plugin)) <= set(libraries):
            shutil.copyfile(plugin, lib / "openmpi3" / plugin.name)
    shutil.copytree(texts, lib / "help", ignore=lambda folder, names: [n for n in names if not n.startswith("help-")])


def check_libraries(bundle, lib):
    """Every program and library finds the rest in the bundle alone."""
    files = [*(bundle / "bin").iterdir(), *lib.glob("*.so*"), *(lib / "openmpi3").iterdir()]
    search = f"{lib}:{bundle / 'bin'}"
    for file in files:
        for soname, path in needed(file, search).items():
            if GLIBC.match(soname) or NVIDIA.match(soname):
                continue
            if path is None or bundle not in pathlib.Path(path).parents and lib not in pathlib.Path(path).parents:
                sys.exit(f"gpu-bundle: {file.name} needs {soname}, which is not in the bundle ({path})")
    return files


def newest_glibc(files):
    """The glibc that the files' symbols ask for."""
    text = subprocess.run(["readelf", "-VW", *map(str, files)], check=True, capture_output=True, text=True).stdout
    return "2." + str(max(int(minor) for minor in re.findall(r"GLIBC_2\.(\d+)", text)))


def copy_scripts(bundle):
    shutil.copytree(SOURCE / "scripts" / "gpu_check", bundle / "gpu_check",
                    ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(SOURCE / "configs", bundle / "configs", ignore=shutil.ignore_patterns("*.proto", "*.py"))
    shutil.copyfile(SOURCE / "docs" / "gpu-check.md", bundle / "README.md")
    for name, arguments in (("gpu-check", ""), ("demist", "--exec demist")):
        (bundle / name).write_text(LAUNCHER.format(arguments=arguments), encoding="utf-8")
        (bundle / name).chmod(0o755)


def identity(bundle):
    """The commit, and the programs: two bundles of one name hold the same."""
    commit = subprocess.run(["git", "-C", str(SOURCE), "describe", "--always", "--dirty"], capture_output=True, text=True)
    digest = hashlib.sha256()
    for program in sorted((bundle / "bin").iterdir()):
        digest.update(program.read_bytes())
    return f"{commit.stdout.strip() or 'unknown'}-{digest.hexdigest()[:8]}"


def folder_bytes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def pack(build, bundle):
    wants, libraries = copy_programs(build, bundle)
    with tempfile.TemporaryDirectory() as folder:
        lib = pathlib.Path(folder) / "lib"
        copy_libraries(libraries, lib)
        files, unpacked = check_libraries(bundle, lib), folder_bytes(lib)
        glibc = newest_glibc(files)
        with tarfile.open(bundle / "lib.tar.xz", "w:xz", preset=2) as tar:
            tar.add(lib, "lib")
    copy_scripts(bundle)
    about = {"format": "demist.gpu-bundle/1", "id": identity(bundle), "glibc": glibc, "programs": wants}
    (bundle / "bundle.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    subprocess.run([str(bundle / "demist"), "--version"], check=True, stdout=subprocess.DEVNULL,
                   env={"PATH": os.environ["PATH"]})
    shutil.rmtree(bundle / "lib")  # that start unpacked it
    return len(files), unpacked


def main(build, bundle):
    build, bundle = pathlib.Path(build).resolve(), pathlib.Path(bundle).resolve()
    if bundle.exists() and not (bundle / "bundle.json").exists() and any(bundle.iterdir()):
        sys.exit(f"gpu-bundle: {bundle} holds something else; name another folder")
    shutil.rmtree(bundle, ignore_errors=True)
    count, unpacked = pack(build, bundle)
    size = folder_bytes(bundle)
    print(f"{bundle}: {size / 2**20:.1f} MiB ({unpacked / 2**20:.0f} MiB of libraries as {'lib.tar.xz'}); "
          f"{count} programs and libraries find everything but glibc and NVIDIA's in it")
    if size > LIMIT_BYTES:
        sys.exit(f"gpu-bundle: that is more than {LIMIT_BYTES // 2**20} MiB")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__.strip())
    main(*sys.argv[1:])
