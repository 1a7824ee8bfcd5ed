#!/usr/bin/env bash
# A job of `ray symmetric-run` in which Ray never started ends with status 0: the command was not run, and the scheduler
# that looks at the status books the job as done.
#
# Expected: status of the command where it ran (as documented), and another than 0 where it could not be run.
# Found (Ray 2.60.0): the port of the head is held by another program, so that `ray start --head` gives up. symmetric-run
# prints "Failed to start Ray" and its reason to the error output, does not run the command, and ends with 0. A command
# that did run and failed with 3 is told as 3. So under Slurm, where many batch scripts end with srun, a training or sweep
# that never began is COMPLETED, with exit code 0:0, and whatever waits for it (`--dependency=afterok`) starts on no results.
#
# Output: which case, whether the command ran, the status, what the error output says of it:
#   the port is free     ran      status 3   Command failed with return code 3
#   the port is taken    not run  status 0   Failed to start Ray
#
# Exit status: 0 while this is so, 1 when it has changed. Uses nothing of unvanish. It wants a machine on which no Ray runs.
set -euo pipefail
folder=$(mktemp -d /tmp/rXXXX)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ray==2.60.0
cat > "$folder/case.py" <<'PYTHON'
import os
import socket
import subprocess
import sys
from pathlib import Path

folder = Path(sys.argv[1])
own = {**os.environ, "PATH": f"{folder}/venv/bin:{os.environ['PATH']}", "RAY_TMPDIR": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}


def run(port):
    address = ["ray", "symmetric-run", "--address", f"127.0.0.1:{port}", "--num-cpus=1", "--include-dashboard=false"]
    done = subprocess.run([*address, "--", "sh", "-c", "echo THE COMMAND RAN; exit 3"], env=own, capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if line.startswith(("Command failed", "Failed to start Ray"))]
    return "THE COMMAND RAN\n" in done.stdout, done.returncode, said[0].split(":")[0] if said else done.stderr[-300:]


free = socket.socket()
free.bind(("127.0.0.1", 0))
port = free.getsockname()[1]
free.close()
rows = {"the port is free": run(port)}
with socket.socket() as other:
    other.bind(("127.0.0.1", 0))
    other.listen()
    rows["the port is taken"] = run(other.getsockname()[1])
for name, (ran, status, said) in rows.items():
    print(f"{name:<20} {'ran' if ran else 'not run':<8} status {status}   {said}")
expected = {
    "the port is free": (True, 3, "Command failed with return code 3"),
    "the port is taken": (False, 0, "Failed to start Ray"),
}
sys.exit(0 if rows == expected else 1)
PYTHON
"$folder/venv/bin/python" "$folder/case.py" "$folder"
