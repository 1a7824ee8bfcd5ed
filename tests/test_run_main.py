"""A script's own classes under ``unvanish run``: what other processes send back of them is what they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SENT_BACK = """
import multiprocessing, pickle
from dataclasses import dataclass

@dataclass
class Made:
    size: int

def make(queue, made):
    queue.put(Made(made.size + 1))

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=make, args=(queue, Made(3)))
    child.start()
    made = queue.get(timeout=60)
    child.join()
    print(made, type(made) is Made, pickle.loads(pickle.dumps(made)))
"""


def test_a_spawned_process_sends_back_objects_of_the_scripts_own_classes(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SENT_BACK)
    command = [sys.executable, "-m", "unvanish", "run", "-o", "r.unvanish", "train.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "Made(size=4) True Made(size=4)\n"), done.stderr
