"""What is published: one version, no tools of development, no results of benchmarks."""

from __future__ import annotations

import email
import re
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

import unvanish

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: Any) -> dict[str, Path]:
    """The sdist and the wheel, as hatch writes them; skipped where hatch is missing."""
    pytest.importorskip("hatchling", reason="hatchling writes the archives")
    from hatchling.builders.sdist import SdistBuilder
    from hatchling.builders.wheel import WheelBuilder

    out = tmp_path_factory.mktemp("dist")
    builders = {"sdist": SdistBuilder, "wheel": WheelBuilder}
    return {
        name: Path(next(builder(str(ROOT)).build(directory=str(out), versions=["standard"])))
        for name, builder in builders.items()
    }


def test_the_version_stands_in_one_place(built: dict[str, Path]) -> None:
    assert "version" not in PROJECT["project"] and PROJECT["project"]["dynamic"] == ["version"]
    assert built["sdist"].name == f"unvanish-{unvanish.__version__}.tar.gz"
    assert built["wheel"].name.startswith(f"unvanish-{unvanish.__version__}-")


def test_what_only_developers_need_is_no_extra_of_the_package(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built["wheel"]) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith("/METADATA")]
        metadata = email.message_from_bytes(wheel.read(name))
    assert set(metadata.get_all("Provides-Extra", [])) == {"pictures", "lab", "dks", "ray", "workers"}
    required = " ".join(metadata.get_all("Requires-Dist", []))
    assert not {"pytest", "ruff", "pyright", "hypothesis", "torchdiag"} & set(re.findall(r"[\w-]+", required))
    assert {"dev", "bench", "docs"} == set(PROJECT["dependency-groups"])


def test_the_sdist_holds_what_a_test_run_needs_and_no_results(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for needed in ("src/unvanish/__init__.py", "tests/conftest.py", "tools/compare_checkouts.py", "docs/build.py",
                   "benchmarks/verdicts.py", "examples/deep_sigmoid.py", "Makefile", "constraints.txt"):  # fmt: skip
        assert needed in names
    assert not [name for name in names if name.startswith("benchmarks/results")]


def test_everything_that_make_installs_has_one_exact_version() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {_plain(line.split("==")[0]) for line in lines if "==" in line}
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *(each for extra in extras.values() for each in extra)]
    wanted += [*PROJECT["dependency-groups"]["dev"], *PROJECT["dependency-groups"]["docs"], "pip"]
    names = {_plain(re.split(r"[\[<>=~ ]", each)[0]) for each in wanted} - {"unvanish"}
    assert names <= pinned, f"constraints.txt has no version of {sorted(names - pinned)}"


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
