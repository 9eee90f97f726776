#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The cluster commands against a real Slurm of four nodes on this machine (slurm/local_cluster.py).

usage: cluster_test.py DEMIST CONFIGS
"""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

SLURM = pathlib.Path(__file__).resolve().parents[2] / "slurm"
sys.path.insert(0, str(SLURM))
import local_cluster  # noqa: E402

SKIPPED = 77
PROFILE = SLURM / "local.textproto"
FEW_STEPS = ["stages.pretrain.steps=40", "stages.adapt.steps=20"]


def expect(condition, message):
    if not condition:
        raise AssertionError(message)


class Run:
    """A run folder, and the demist commands on it."""

    def __init__(self, cluster, program, recipe, folder, settings):
        self.cluster, self.program, self.recipe, self.folder = cluster, program, recipe, folder
        self.settings = [f"run_dir={folder}", "parallel.threads=1", "checkpoint.every_steps=10", *settings]

    def demist(self, *arguments, code=0):
        done = self.cluster.run(self.program, *map(str, arguments))
        expect(done.returncode == code,
               f"demist {' '.join(map(str, arguments))} ended with {done.returncode}, expected {code}:\n"
               f"{done.stdout}{done.stderr}")
        return done.stdout

    def submit(self, *options, code=0):
        settings = [word for setting in self.settings for word in ("--set", setting)]
        return self.demist("submit", self.recipe, "--cluster", PROFILE, *options,
                           *settings, code=code)

    def status(self):
        return json.loads(self.demist("status", self.folder, "--json"))

    def jobs(self):
        lines = (self.folder / "jobs.tsv").read_text().splitlines()[1:]
        return [line.split("\t")[0] for line in lines]

    def events(self, name):
        lines = (self.folder / "events.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, filter(None, lines)) if event["event"] == name]

    def hash(self, stage):
        return self.demist("inspect", self.folder / stage / "checkpoints", "--hash").strip()

    def story(self):
        logs = [*self.folder.glob("logs/job-*.log"), self.folder / "events.jsonl"]
        return "".join(f"== {log}\n{log.read_text()[-4000:]}\n" for log in logs if log.exists())

    def wait(self, condition, what, seconds=60):
        """Until condition(status) holds; every state on the way is shown."""
        deadline, last = time.monotonic() + seconds, None
        while True:
            now = self.status()
            line = f"{now['state']} {now.get('stage', '')} {now.get('step', '')} {now['detail']}"
            if last is None or now["state"] != last:
                print(f"    {line}", flush=True)
            last = now["state"]
            if condition(now):
                return now
            expect(now["state"] != "FAILED" and time.monotonic() < deadline,
                   f"{what}: still {line}\n{json.dumps(now)}")
            time.sleep(0.3)

    def wait_for_steps(self, more=5, seconds=60):
        """Training goes on: `more` steps from now."""
        first = self.status().get("step", 0)
        return self.wait(lambda s: s["state"] == "TRAINING" and s["step"] >= first + more, "training", seconds)

    def wait_for_empty_queue(self, seconds=60):
        deadline = time.monotonic() + seconds
        while self.cluster.run("squeue", "-h").stdout and time.monotonic() < deadline:
            time.sleep(0.3)
        expect(self.cluster.run("squeue", "-h").stdout == "", "jobs are left in the queue")

    def ranks(self):
        """Process ids of this run's ranks by node."""
        found = {}
        for pid in self.cluster.processes_of_jobs():
            command = local_cluster.command_of(pid)
            if command[1:3] == ["train", str(self.folder)]:
                found.setdefault(local_cluster.variables_of(pid).get("SLURMD_NODENAME"), []).append(pid)
        return found


def run_here(run):
    """The same recipe without Slurm, on one rank."""
    settings = [word for setting in run.settings for word in ("--set", setting)]
    run.demist("run", run.recipe, *settings)


def reference(run):
    """A run without Slurm, and the commands on it; the hash of its result."""
    run_here(run)
    expect(run.status()["state"] == "DONE", "a finished run is not DONE")
    expect("adapt" in run.demist("logs", run.folder, "--rank", 0), "no log of rank 0")
    expect("DONE" in run.demist("cancel", run.folder), "a finished run was cancelled")
    return run.hash("adapt")


@contextlib.contextmanager
def nodes_taken(cluster, count):
    """By another job, until the end: what is submitted waits."""
    job = cluster.run("sbatch", "--parsable", f"--nodes={count}", "--exclusive", "--output=/dev/null",
                      "--wrap=sleep 600").stdout.strip()
    yield
    cluster.run("scancel", job)


def wait_for_text(path, text, seconds=60):
    deadline = time.monotonic() + seconds
    while text not in path.read_text():
        expect(time.monotonic() < deadline, f"{path} does not say '{text}':\n{path.read_text()}")
        time.sleep(0.3)


def runs_on_four_nodes(run, expected):
    dry = run.submit("--nodes", 4, "--dry-run")
    expect("#SBATCH --nodes=4" in dry and not run.folder.exists(), "a dry run leaves traces")
    said = run.folder.parent / "follower.txt"
    with nodes_taken(run.cluster, 4), open(said, "w", encoding="utf-8") as output:
        run.submit("--nodes", 4)
        follower = subprocess.Popen([run.program, "logs", run.folder, "--follow", "--lines", "0"],
                                    env=run.cluster.environment, stdout=output, stderr=output)
        again = run.submit("--nodes", 4)
        expect("submitted already" in again and len(run.jobs()) == 1, f"submitted twice:\n{again}")
        wait_for_text(said, "waiting for it: QUEUED")
    run.wait(lambda s: s["state"] == "TRAINING", "training", 90)
    run.wait(lambda s: s["state"] == "DONE", "the run", 90)
    expect(run.hash("adapt") == expected, "four nodes give other bits than one machine")
    expect({e["ranks"] for e in metrics(run) if e["event"] == "start"} == {4}, "not on four ranks")
    expect("done already" in run.submit("--nodes", 4), "a finished run was submitted")
    run.wait_for_empty_queue()  # the run is done before its job is
    expect("ends with code 0: done" in run.demist("logs", run.folder), "the job's log lacks its end")
    follower.wait(timeout=60)
    expect("stage pretrain" in said.read_text(), said.read_text())


def metrics(run):
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines() if line]


def starts(run):
    return [(e["step"], e["ranks"]) for e in metrics(run) if e["event"] == "start" and e["stage"] == "pretrain"]


def time_limit_requeues(run):
    """And nobody looks at the recipe, which its author needs for something else by then."""
    run.submit("--nodes", "2-4", "--time", "00:02:00")
    recipe = run.recipe.read_text()
    run.recipe.write_text(recipe.replace("lr: 2e-3", "lr: 9e-3"))
    # Slurm looks at limits twice a minute: the signal comes 30 to 60 s after the start.
    back = run.wait(lambda s: s["state"] == "REQUEUED", "the time limit's signal", 120)
    expect(back["jobs"][0]["restarts"] == 1, f"{back}")
    expect([e["signal"] for e in run.events("job_signal")] == ["USR2"], f"{run.events('job_signal')}")
    # "TimeLimit": this job has had enough of limits.
    goes_on_after_requeue(run, saved=back.get("step", 0), ranks=4, settings=["TimeLimit=60"])
    run.recipe.write_text(recipe)


def goes_on_after_requeue(run, saved, ranks, settings=()):
    """A requeued job waits for two minutes; not here."""
    before = len(starts(run))
    run.wait(lambda s: not {"allocated", "mixed", "completing"} & set(run.cluster.states().values()), "free nodes")
    deadline = time.monotonic() + 60
    while run.cluster.processes_of_jobs() and time.monotonic() < deadline:  # their nodes are not given out yet
        time.sleep(0.3)
    time.sleep(2)
    done = run.cluster.run("scontrol", "update", f"JobId={run.jobs()[-1]}", "StartTime=now", *settings)
    expect(done.returncode == 0, done.stderr)
    run.wait(lambda s: len(starts(run)) > before and s["state"] == "TRAINING" and s["step"] > saved, "training again")
    expect(starts(run)[-1] == (saved, ranks), f"went on from {starts(run)[-1]}, saved was {saved}")


def killed_rank_restarts(run):
    before = len(starts(run))
    os.kill(run.ranks()["node2"][0], signal.SIGKILL)
    run.wait(lambda s: len(starts(run)) > before and s["state"] == "TRAINING", "restart")
    run.wait_for_steps()
    expect(starts(run)[-1][1] == 4, "it lost a node as well")
    expect(len(run.jobs()) == 1 and run.status()["jobs"][0]["restarts"] == 1, "not in the same allocation")


def controller_restarts(run, cluster):
    """While it is away a rank dies: nobody tells on which nodes to go on."""
    before = len(starts(run))
    cluster.kill("slurmctld", signal.SIGTERM)
    os.kill(run.ranks()["node4"][0], signal.SIGKILL)
    wait_for_text(run.folder / "logs" / f"job-{run.jobs()[-1]}.log", "asking again", 180)
    cluster.start_controller()
    run.wait(lambda s: len(starts(run)) > before and s["state"] == "TRAINING", "restart", 240)
    run.wait_for_steps()
    expect(len(run.jobs()) == 1 and len(run.events("job_start")) == 2, "not in the same allocation")


def killed_node_shrinks(run, cluster):
    """Without power: Slurm holds the step before, and would the next, until it calls the node down."""
    before = len(starts(run))
    cluster.cut_power("node3")
    run.wait(lambda s: len(starts(run)) > before and s["state"] == "TRAINING", "three nodes", 120)
    run.wait_for_steps()
    expect(starts(run)[-1][1] == 3, f"{starts(run)[-1]}")
    expect(run.status()["avoided_nodes"] == ["node3"], "the dead node is not remembered")


def lost_first_node_requeues(run, cluster):
    """Its batch script is gone with it, and Slurm leaves the job running without."""
    latest = run.folder / "pretrain" / "checkpoints" / "LATEST"
    run.submit("--nodes", 2)
    run.wait(lambda s: latest.exists(), "a checkpoint")
    first = cluster.run("scontrol", "show", "hostnames", run.events("job_start")[-1]["nodes"]).stdout.split()[0]
    cluster.cut_power(first)
    run.wait(lambda s: s["state"] == "REQUEUED", "the requeue", 180)
    expect([e["node"] for e in run.events("first_node_lost")] == [first], f"{run.events('first_node_lost')}")
    cluster.start_node(first)
    goes_on_after_requeue(run, int(latest.read_text().strip().removeprefix("step-")), ranks=2)
    run.demist("cancel", run.folder)
    run.wait_for_empty_queue()


def cancel_saves_and_resume_goes_on(run):
    shown = run.demist("cancel", run.folder)
    expect("STOPPED" in shown, shown)
    run.wait_for_empty_queue()
    saved = run.status()["step"]
    run.demist("resume", run.folder, "--nodes", 2)
    run.wait(lambda s: s["state"] == "TRAINING" and s["step"] > saved, "the resumed run")
    expect(starts(run)[-1] == (saved, 2), f"{starts(run)[-1]}, saved was {saved}")
    expect("--exclude=node3" in (run.folder / "submit.sh").read_text(), "the dead node is not avoided")


def turn_bad(run, node):
    """As `demist run` remembers it."""
    with open(run.folder / "bad-nodes", "a", encoding="utf-8") as file:
        file.write(f"{node}\t{int(time.time())}\ta test says so\n")


def excluded(run, job):
    shown = run.cluster.run("scontrol", "show", "job", job).stdout.split()
    names = [word.removeprefix("ExcNodeList=") for word in shown if word.startswith("ExcNodeList=")]
    return run.cluster.run("scontrol", "show", "hostnames", *names).stdout.split()


def preemption_requeues(run):
    """And the nodes that turned bad since it was submitted are not handed out again."""
    before = len(starts(run))
    turn_bad(run, "node4")
    run.cluster.run("sbatch", "--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    back = run.wait(lambda s: s["state"] == "REQUEUED", "pre-emption")
    expect(len(starts(run)) == before, "it started again on nodes that it was to leave")
    run.wait(lambda _: excluded(run, run.jobs()[-1]) == ["node3", "node4"], "the list of bad nodes", 20)
    goes_on_after_requeue(run, back["step"], ranks=2)


def scancel_saves_and_stays_away(run):
    run.cluster.run("scancel", run.jobs()[-1])
    stopped = run.wait(lambda s: s["state"] == "STOPPED", "scancel")
    newest = sorted((run.folder / "pretrain" / "checkpoints").glob("step-*"))[-1].name
    expect(int(newest.removeprefix("step-")) == stopped["step"],
           f"not the last step was saved, but {newest}: {stopped}")
    run.wait_for_empty_queue()
    time.sleep(1)
    expect(run.cluster.run("squeue", "-h").stdout == "", "a cancelled job came back")


def constant_rate(steps):
    """A run that may be compared with a longer one: a step does not depend on how many there will be."""
    return f"stages.pretrain.steps={steps}", "stages.pretrain.optimizer.schedule=CONSTANT"


def has_the_bits_of_an_undisturbed_run(run, make):
    """What was saved at the end of all that is what as many steps come to on one rank, without Slurm."""
    steps = run.status()["step"]
    alone = make("alone", *constant_rate(steps), "stages.adapt.steps=20")
    run_here(alone)
    crews = [ranks for _, ranks in starts(run)]
    print(f"    {steps} steps by {len(crews)} crews of {crews} ranks: {run.hash('pretrain')}", flush=True)
    expect(run.hash("pretrain") == alone.hash("pretrain"), f"after {steps} steps other bits than undisturbed")


def chain_avoids_bad_nodes(run):
    """Its second job was in the queue before the node turned bad."""
    run.submit("--nodes", 1, "--chain", 2)
    run.wait_for_steps()
    turn_bad(run, "node2")
    first, second = run.jobs()
    saved = run.status()["step"]
    run.cluster.run("scancel", "--batch", "--signal=USR2", first)
    run.wait(lambda s: s["jobs"][1]["state"] == "RUNNING" and s["step"] > saved, "the second job")
    expect(excluded(run, second) == ["node2"], f"{excluded(run, second)}")
    run.demist("cancel", run.folder)
    run.wait_for_empty_queue()


def stages_depend_on_each_other(run, expected):
    run.submit("--nodes", 3, "--stages", "jobs")
    expect(len(run.jobs()) == 5, f"{run.jobs()}")
    run.wait(lambda s: s["state"] == "DONE", "the stages", 150)
    expect(run.hash("adapt") == expected, "stages in jobs of their own give other bits")


def failure_ends_what_depends_on_it(run):
    with nodes_taken(run.cluster, 3):  # node3 is dead
        run.submit("--nodes", 1, "--stages", "jobs")
        (run.folder.parent / "text.txt").unlink()  # what the corpus stage reads
    run.wait_for_empty_queue()  # no stage waits for what will never be
    status = run.status()
    expect(status["state"] == "FAILED" and "text.txt" in status["detail"], f"{status}")
    expect("text.txt" in run.demist("logs", run.folder, "--errors"), "logs --errors hides the error")


def doctor_examines_every_node(cluster, program, folder):
    srun = ["env", "OMPI_MCA_btl=self,tcp", "OMPI_MCA_btl_tcp_if_include=lo", "srun", "--nodes=3", "--ntasks=3"]
    well = cluster.run(*srun, "--mpi=pmix", program, "doctor", str(folder))
    expect(well.returncode == 0 and well.stdout.startswith("3 ranks"), f"{well.stdout}{well.stderr}")
    expect("PMIx: OpenPMIx" in well.stdout and "DIFFERS" not in well.stdout, well.stdout)
    apart = cluster.run(*srun, "--mpi=none", program, "doctor", str(folder))
    expect(apart.returncode == 5 and "--mpi=pmix" in apart.stderr, f"{apart.stdout}{apart.stderr}")


def main():
    missing = local_cluster.missing_programs()
    if missing and os.environ.get("DEMIST_WITHOUT_SLURM") == "1":
        print(f"skipped: {', '.join(missing)} not found, and DEMIST_WITHOUT_SLURM=1")
        return SKIPPED
    if missing:
        sys.exit(f"{', '.join(missing)} not found: ./dev packages installs Slurm, DEMIST_WITHOUT_SLURM=1 skips this test")
    program, configs = sys.argv[1], pathlib.Path(sys.argv[2])
    with tempfile.TemporaryDirectory(prefix="demist-cluster-") as name, local_cluster.LocalCluster(4) as cluster:
        folder, begin = pathlib.Path(name), time.monotonic()
        (folder / "text.txt").write_text((configs / "tiny/train.txt").read_text())

        shutil.copytree(configs / "tiny", folder / "tiny")
        shutil.copy(configs / "tiny.textproto", folder)

        def make(run_name, *settings):
            return Run(cluster, program, folder / "tiny.textproto", folder / run_name, settings)

        def test(body, *arguments):
            print(f"[{time.monotonic() - begin:5.1f} s] {body.__name__}", flush=True)
            try:
                return body(*arguments)
            except AssertionError:
                print("".join(run.story() for run in arguments if isinstance(run, Run)))
                raise

        expected = test(reference, make("here", *FEW_STEPS))
        test(runs_on_four_nodes, make("four", *FEW_STEPS), expected)
        test(lost_first_node_requeues, make("first", "stages.pretrain.steps=1000000"), cluster)
        long = make("long", *constant_rate(1000000))  # on no machine is it done before it was disturbed enough
        test(time_limit_requeues, long)
        test(killed_rank_restarts, long)
        test(controller_restarts, long, cluster)
        test(killed_node_shrinks, long, cluster)
        test(cancel_saves_and_resume_goes_on, long)
        test(preemption_requeues, long)
        test(scancel_saves_and_stays_away, long)
        test(has_the_bits_of_an_undisturbed_run, long, make)
        test(chain_avoids_bad_nodes, make("chain", "stages.pretrain.steps=1000000"))
        test(stages_depend_on_each_other, make("jobs", *FEW_STEPS), expected)
        test(failure_ends_what_depends_on_it, make("bad", f"corpora.train.inputs.0.path={folder}/text.txt"))
        test(doctor_examines_every_node, cluster, program, folder)
        print(f"[{time.monotonic() - begin:5.1f} s] all passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
