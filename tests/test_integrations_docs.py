"""The page on integrations is true: its programs run, its table names tests that there are, its tags are all."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from unvanish.watching.tags import PREFIX, TAGS

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("package", ["lightning", "transformers", "keras", "accelerate", "ignite", "tensorboard"])
def test_a_program_of_the_page_shows_each(package: str) -> None:
    assert any(package in block for block in BLOCKS)


def test_every_program_of_the_page_runs_as_it_stands(tmp_path: Path) -> None:
    for package in ("lightning", "transformers", "accelerate", "keras", "ignite", "tensorboard"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the page shows {package}, which is not installed")
    program = "import sys\nfor at, block in enumerate(sys.argv[1:]):\n    print('block', at, flush=True)\n"
    program += "    exec(compile(block, f'block {at}', 'exec'), {'__name__': 'documented'})\n"
    command = [sys.executable, "-W", "ignore", "-c", program, *BLOCKS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{done.stdout[-500:]}\n{done.stderr[-3000:]}"
    assert done.stdout.count("Healthy: ") + done.stdout.count("Vanished: ") >= 5  # the reports that they print


def test_the_table_names_tests_that_there_are_and_every_file_of_them() -> None:
    named = set(re.findall(r"`(?:tests/)?(test_\w+\.py)`", PAGE))
    assert all((ROOT / "tests" / name).is_file() for name in named)
    ours = {path.name for path in (ROOT / "tests").glob("test_integrations_*.py")} - {Path(__file__).name}
    assert ours <= named


def test_every_integration_is_on_the_page() -> None:
    for path in (ROOT / "src" / "unvanish" / "integrations").glob("*.py"):
        if path.stem not in ("__init__", "required", "pytest"):
            assert f"from unvanish.integrations.{path.stem} import Watch" in PAGE


def test_every_tag_is_on_the_page() -> None:
    rows = dict(re.findall(rf"^\| `{PREFIX}/(\w+)` \| (.+) \|$", PAGE, re.MULTILINE))
    assert rows == TAGS
