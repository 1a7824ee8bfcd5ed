"""What the documentation tells the owner of a cluster to write: the batch script runs, the YAML has the right fields.

Of Slurm only what the script asks of it is put in its place: ``srun`` starts the tasks here, each a node of its own.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "sweeps.md"
MARK = "UNVANISH_TEST_OF_SLURM"
NODES = 2
SRUN = """#!{python}
import os, subprocess, sys
options = [each for each in sys.argv[1:] if each.startswith("--")]
command = sys.argv[1 + sys.argv[1:].index("ray"):]
given = dict(each.lstrip("-").split("=") for each in sys.argv[1:sys.argv.index("ray")])
assert given == {{"nodes": "{nodes}", "ntasks": "{nodes}", "cpus-per-task": "1"}}, given
head = command[command.index("--address") + 1]
first = subprocess.Popen(command)
# what `ray symmetric-run` does on a node whose address is not the head's; on the head's machine it refuses to
wait = f"until ray health-check --address {{head}} >/dev/null 2>&1; do sleep 1; done"
join = f"{{wait}}; exec ray start --address {{head}} --num-cpus=1"
others = [subprocess.Popen(["sh", "-c", join], stdout=2) for _ in range(int(given["ntasks"]) - 1)]
status = first.wait()
for other in others:
    other.kill()
sys.exit(status)
"""
RAY = """#!/bin/sh
case $1 in
stop) exit 0 ;;  # it would end every Ray of this machine; the test ends its own
start) shift; exec {ray} start "$@" --object-store-memory=80000000 ;;
*) exec {ray} "$@" ;;
esac
"""
RAY_THAT_FAILS = """#!/bin/sh
case $1 in
stop) exit 0 ;;
start) exit 1 ;;
*) exec {ray} "$@" ;;
esac
"""
UNVANISH = """#!/bin/sh
exec {python} -c 'import sys; from unvanish.cli import main; sys.exit(main())' "$@"
"""
GRID = """[grid]
depth = [4, 8]
weight_variance = [1.0, 2.0, 3.0]
[fixed]
width = 8
"""


def block(language: str, sign: str) -> str:
    """The one block of that language on the page that holds the sign."""
    (found,) = (each for each in re.findall(rf"```{language}\n(.*?)```", PAGE.read_text("utf-8"), re.S) if sign in each)
    return found


def test_the_batch_script_is_a_script(tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text(block("bash", "#SBATCH"))
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    asked = re.findall(r"--([\w-]+)=", script.read_text().partition("srun")[0].partition("#SBATCH")[2])
    assert asked[:3] == ["nodes", "ntasks-per-node", "cpus-per-task"]


def mine() -> Iterator[int]:
    """The processes that the test has started, by what they have in their environment."""
    for each in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"{MARK}={os.getpid()}".encode() in each.read_bytes().split(b"\0"):
                yield int(each.parent.name)


def taken(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def submitted(folder: Path, ray: str) -> subprocess.CompletedProcess[str]:
    """What the batch script did in that folder, with ``ray`` as the text of the command of that name."""
    commands = folder / "bin"
    commands.mkdir(exist_ok=True)
    names = {"python": sys.executable, "ray": _ray(), "nodes": NODES}
    for name, text in (("srun", SRUN), ("ray", ray), ("unvanish", UNVANISH)):
        (commands / name).write_text(text.format(**names))
        (commands / name).chmod(0o755)
    (folder / "job.sh").write_text(block("bash", "#SBATCH"))
    (folder / "grid.toml").write_text(GRID)
    short = tempfile.mkdtemp(prefix="u", dir="/tmp")  # Ray's sockets lie in it, and their paths must be short
    job = {
        **os.environ, "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}", "HOME": str(folder), "RAY_TMPDIR": short,
        "SLURM_JOB_NUM_NODES": str(NODES), "SLURM_CPUS_PER_TASK": "1", "RAY_USAGE_STATS_ENABLED": "0",
        MARK: str(os.getpid()),
    }  # fmt: skip
    job.pop("RAY_ADDRESS", None)
    try:
        return subprocess.run(["bash", "job.sh"], cwd=folder, env=job, capture_output=True, text=True, timeout=500)
    finally:
        for pid in mine():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(short, ignore_errors=True)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for its processes in /proc")
def test_the_batch_script_starts_ray_on_all_nodes_and_the_sweep_on_the_first(tmp_path: Path) -> None:
    _ready()
    for _ in range(3):  # a head that takes longer than Ray's fixed 30 s, on a machine that is busy, was never started
        done = submitted(tmp_path, RAY)
        if "Failed to start Ray" not in done.stderr:
            break
        assert done.returncode != 0, done.stdout + done.stderr
    assert done.returncode == 0, done.stdout + done.stderr
    assert "On head node" in done.stdout and "6 points" in done.stdout, done.stdout + done.stderr
    base = sqlite3.connect(tmp_path / "sweep.sqlite")
    assert base.execute("SELECT COUNT(*) FROM results WHERE error = ''").fetchone() == (6,)
    base.close()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for its processes in /proc")
def test_the_job_has_failed_where_ray_does_not_start(tmp_path: Path) -> None:
    _ready()
    (tmp_path / "sweep.done").write_text("")  # of a job before
    done = submitted(tmp_path, RAY_THAT_FAILS)
    assert "Failed to start Ray" in done.stderr, done.stdout + done.stderr
    assert done.returncode == 1 and not (tmp_path / "sweep.sqlite").exists()


def _ray() -> str:
    return shutil.which("ray", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}") or ""


def _ready() -> None:
    """Skips where this machine cannot play two nodes of a cluster."""
    pytest.importorskip("ray")
    ray = _ray()
    if not ray or "symmetric-run" not in subprocess.run([ray, "--help"], capture_output=True, text=True).stdout:
        pytest.skip("this Ray has no `ray symmetric-run`")
    own = subprocess.run(["hostname", "--all-ip-addresses"], capture_output=True, text=True)
    if own.returncode or not own.stdout.split():
        pytest.skip("this machine has no address but its own loop, and Ray wants one for several nodes")
    running = [each for each in Path("/proc").glob("[0-9]*/cmdline") if b"gcs_server" in _read(each)]
    if running or taken(6379):
        pytest.skip("a Ray runs on this machine, or something else at its port")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


POD = {
    "containers": [{"name!": str, "image": str, "volumeMounts": [{"name!": str, "mountPath!": str}],
                    "resources": {"limits": {"cpu": str, "memory": str}}}],
    "volumes": [{"name!": str, "persistentVolumeClaim": {"claimName!": str}}],
}  # fmt: skip
JOB: dict[str, Any] = {
    "apiVersion!": "ray.io/v1", "kind!": "RayJob", "metadata!": {"name!": str},
    "spec!": {
        "entrypoint": str, "shutdownAfterJobFinishes": bool,
        "rayClusterSpec": {
            "headGroupSpec!": {"rayStartParams!": {"num-cpus": str}, "template!": {"spec": POD}},
            "workerGroupSpecs": [
                {"groupName!": str, "replicas": int, "rayStartParams!": {}, "template!": {"spec": POD}}
            ],
        },
    },
}  # fmt: skip
"""The fields used and their types; "!": must be there. Source: KubeRay, apis/ray/v1, and Kubernetes' PodSpec."""


def check(found: Any, allowed: Any, where: str = "") -> None:
    if isinstance(allowed, dict):
        known = {key.rstrip("!"): value for key, value in allowed.items()}
        assert set(found) <= set(known), (where, set(found) - set(known))
        assert {key[:-1] for key in allowed if key.endswith("!")} <= set(found), (where, found)
        for key, value in found.items():
            check(value, known[key], f"{where}.{key}")
    elif isinstance(allowed, list):
        for at, each in enumerate(found):
            check(each, allowed[0], f"{where}[{at}]")
    elif isinstance(allowed, str):
        assert found == allowed, where
    else:
        assert type(found) is allowed, (where, found)


def test_the_yaml_has_the_fields_of_a_ray_job() -> None:
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load(block("yaml", "RayJob"))
    check(job, JOB)
    mounted = {m["name"] for c in job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
               for m in c["volumeMounts"]}  # fmt: skip
    volumes = {v["name"] for v in job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"]}
    assert mounted == volumes
    with pytest.raises(AssertionError):
        check({**job, "spec": {**job["spec"], "entryPoint": ""}}, JOB)
