#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A Slurm cluster of several pretended nodes on this machine: real munged, slurmctld and slurmd.

usage: local_cluster.py [--nodes N] [COMMAND...]

Starts the cluster in a temporary folder, runs COMMAND (a shell when none is given) with SLURM_CONF set,
and ends every process that it started. Needs root and Debian's slurmctld, slurmd, slurm-client, munge.
"""
import argparse
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch")
# Daemons are where a user's PATH does not look.
os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/sbin"

# Times are short so that tests are: a node is "down" 5 s after its slurmd has gone, a requeued job may start
# again after cred_expire + 1 s (the default of 120 s is what a user meets). Not KillWait, from SIGTERM to SIGKILL:
# a busy machine needs its time to save.
CONFIGURATION = """\
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={munge}/socket,cred_expire=2
CryptoType=crypto/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd-%n.log
# PMIx makes folders with equal names on every node: each pretended node has a place of its own.
TmpFS={root}/tmp-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=1,sched_min_interval=100000
MpiDefault=pmix
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=5
KillWait=30
MinJobAge=300
InactiveLimit=0
NodeName=node[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=2 RealMemory=2000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=OFF
"""


def free_ports(count):
    """The first of `count` consecutive ports that nobody listens on."""
    for first in range(17000, 30000, count):
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
    sys.exit("no free ports for a local cluster")


def missing_programs():
    return [program for program in NEEDED if shutil.which(program) is None]


def variables_of(pid):
    """The environment that a process was started with; empty for one that has gone."""
    try:
        words = pathlib.Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(word.split("=", 1) for word in words if "=" in word)


def command_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return [""]


def parent_of(pid):
    """0 for one that has gone."""
    try:
        return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def signal_all(pids, how):
    for pid in pids:
        try:
            os.kill(pid, how)
        except ProcessLookupError:
            pass  # it has ended meanwhile


def kill_all(pids):
    signal_all(pids, signal.SIGKILL)


class LocalCluster:
    """Context manager. `environment` is what clients need; `nodes` are its nodes' names."""

    def __init__(self, nodes=4):
        self.nodes = [f"node{i + 1}" for i in range(nodes)]
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="demist-slurm-"))
        self.munge = self.root / "munge"
        self.environment = {**os.environ, "SLURM_CONF": str(self.root / "slurm.conf")}
        self.daemons = {}

    def __enter__(self):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # through __exit__
        try:
            self._configure()
            self._start("munged", ["munged", "--foreground", "--force", f"--key-file={self.munge}/key",
                                   f"--socket={self.munge}/socket", f"--pid-file={self.munge}/pid",
                                   f"--log-file={self.munge}/log", f"--seed-file={self.munge}/seed"])
            self._wait(lambda: (self.munge / "socket").exists(), "munged")
            self._start("slurmctld", ["slurmctld", "-D", "-c"])  # -c: from nothing
            for node in self.nodes:
                self.start_node(node)
            self._wait(lambda: set(self.states().values()) == {"idle"}, "nodes")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for name in reversed(list(self.daemons)):
            self.kill(name, signal.SIGTERM)
        kill_all(self.processes_of_jobs())
        shutil.rmtree(self.root, ignore_errors=True)

    def _configure(self):
        self.munge.mkdir(mode=0o700)
        (self.munge / "key").write_bytes(os.urandom(128))
        (self.munge / "key").chmod(0o400)
        for folder in ["state", *[f"{kind}-{node}" for kind in ("spool", "tmp") for node in self.nodes]]:
            (self.root / folder).mkdir()
        first = free_ports(len(self.nodes) + 1)
        (self.root / "slurm.conf").write_text(CONFIGURATION.format(
            host=socket.gethostname().split(".")[0], root=self.root, munge=self.munge, nodes=len(self.nodes),
            port=first, first=first + 1, last=first + len(self.nodes)))

    def _start(self, name, command):
        log = open(self.root / f"{name}.out", "ab")
        command = ["setpriv", "--pdeathsig", "KILL", *command]  # it must not outlive us, however we end
        self.daemons[name] = subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log,
                                              stderr=log, start_new_session=True)

    def start_controller(self):
        """After kill("slurmctld"): it knows what it knew."""
        self._start("slurmctld", ["slurmctld", "-D"])

    def start_node(self, node):
        self._start(node, ["slurmd", "-D", "-N", node])

    def kill(self, name, how=signal.SIGKILL):
        """Ends one daemon: a node's name stands for its slurmd."""
        daemon = self.daemons.pop(name)
        daemon.send_signal(how)
        try:
            daemon.wait(timeout=10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def cut_power(self, node):
        """Its slurmd and all that runs on it are gone, and nothing on it tells of another's end before."""
        victims = set(self.processes_of_jobs(node))
        victims |= {pid for pid in map(parent_of, victims) if "slurmstepd" in command_of(pid)[0]}

        def depth(pid):
            return 1 + depth(parent_of(pid)) if pid in victims else 0

        # Stopped, they do not see each other die. Children first: the kernel wakes those whose parent goes first.
        victims = [*sorted(victims, key=depth, reverse=True), self.daemons[node].pid]
        signal_all(victims, signal.SIGSTOP)
        kill_all(victims)
        self.daemons.pop(node).wait()

    def run(self, *command):
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)

    def states(self):
        rows = self.run("sinfo", "-h", "-N", "-o", "%N %T").stdout.split("\n")
        return dict(row.split() for row in rows if row)

    def _wait(self, condition, what, seconds=30):
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                logs = "".join(f"== {log.name}\n{log.read_text()[-2000:]}" for log in [*self.root.glob("*.out"), *self.root.glob("*.log")])
                sys.exit(f"the local cluster's {what} did not come up\n{logs}")
            time.sleep(0.1)

    def processes_of_jobs(self, node=None):
        """Process ids of this cluster's jobs (of one node), and of the daemons that hold them."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            pid = int(entry.name)
            variables = variables_of(pid)
            ours = variables.get("SLURM_CONF") == str(self.root / "slurm.conf")
            in_job = "SLURM_JOB_ID" in variables or "slurmstepd" in command_of(pid)[0]
            if ours and in_job and node in (None, variables.get("SLURMD_NODENAME")):
                found.append(pid)
        return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    missing = missing_programs()
    if missing:
        sys.exit(f"{', '.join(missing)} not found; install slurmctld, slurmd, slurm-client and munge")
    with LocalCluster(arguments.nodes) as cluster:
        command = arguments.command or [os.environ.get("SHELL", "/bin/bash")]
        return subprocess.run(command, env=cluster.environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
