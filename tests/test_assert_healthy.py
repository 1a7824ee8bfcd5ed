"""The check as an assertion, and the fixture that brings it into a test suite."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

import unvanish
from unvanish import zoo

pytest_plugins = ("pytester",)

SOURCE = Path(unvanish.__file__).parent
PLUGIN = "unvanish.integrations.pytest"
CHAIN = """
    from unvanish import zoo

    def test_flow(assert_healthy):
        assert_healthy(zoo.get("chain-20").build())
"""


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(SOURCE.parent), os.environ.get("PYTHONPATH")]))
    env = os.environ | {"PYTHONPATH": path} | environment
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=env, check=False)


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A user's project in which this plugin is loaded by name, installed or not, and no other one is."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_ADDOPTS", f"-p {PLUGIN} -p no:cacheprovider")
    return pytester


def test_a_healthy_problem_returns_its_report() -> None:
    problem = zoo.get("small-cnn").build()
    report = unvanish.assert_healthy(problem)
    assert report.healthy
    assert report == unvanish.diagnose(problem)


def test_a_note_is_no_failure() -> None:
    report = unvanish.assert_healthy(zoo.get("converged-digits").build())
    assert [(f.code, f.level) for f in report.findings] == [("UV401", "note")]


def test_an_error_is_an_assertion_error_with_the_text_report() -> None:
    with pytest.raises(AssertionError) as caught:
        unvanish.assert_healthy(zoo.get("chain-20").build())
    text = str(caught.value)
    assert text.splitlines()[:2] == ["the network is not healthy: vanished (UV101)", ""]
    assert "Vanished: " in text
    assert "chain of" not in text
    assert max(map(len, text.splitlines())) <= 72


@pytest.mark.parametrize("ignore", [("UV101",), ["uv1"], {"UV101"}, iter(["UV101"])])
def test_what_is_ignored_does_not_count_and_is_not_reported(ignore: Any) -> None:
    report = unvanish.assert_healthy(zoo.get("chain-20").build(), ignore)
    assert (report.verdict, report.healthy, report.findings) == ("healthy", True, ())


def test_what_is_not_ignored_still_fails() -> None:
    problem = zoo.get("softmax-one-unit").build()
    assert {f.code for f in unvanish.diagnose(problem).findings} == {"UV302", "UV706"}
    with pytest.raises(AssertionError, match=r"^the network is not healthy: pairing \(UV706\)") as caught:
        unvanish.assert_healthy(problem, ignore=("UV302",))
    assert "UV302" not in str(caught.value)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (torch.nn.Linear(2, 2), r"not a Linear; make one of it: Problem\(model, inputs, …\)"),
        (lambda: None, "not a function; call the function and pass what it returns"),
        (None, "not a NoneType; make one"),
        (torch.nn.Linear, "not a type; make one"),
    ],
)
def test_only_a_problem_is_taken(problem: Any, message: str) -> None:
    with pytest.raises(unvanish.UnvanishError, match=message):
        unvanish.assert_healthy(problem)


@pytest.mark.parametrize(
    ("ignore", "message"),
    [
        ("UV101", r"takes codes in a tuple or list, such as \('UV101', 'UV3'\), not 'UV101'"),
        (101, "takes codes in a tuple or list"),
        (None, "takes codes in a tuple or list"),
        (("UV101", "vanished"), "got 'vanished', which is no code"),
        (("UV",), "got 'UV', which is no code"),
        (("UV1011",), "got 'UV1011'"),
        ((101,), "got 101"),
    ],
)
def test_ignore_takes_codes(ignore: Any, message: str) -> None:
    with pytest.raises(unvanish.UnvanishError, match=message):
        unvanish.assert_healthy(zoo.get("chain-20").build(), ignore)


@pytest.mark.slow
def test_it_fails_under_optimised_python_too() -> None:
    done = python(
        "-O", "-c", "import unvanish; from unvanish import zoo; unvanish.assert_healthy(zoo.get('chain-4').build())"
    )
    assert done.returncode == 1
    assert "AssertionError: the network is not healthy: vanished (UV101)" in done.stderr


@pytest.mark.parametrize(
    "program",
    [
        f"import {PLUGIN}",
        "import unvanish; unvanish.assert_healthy",
    ],
    ids=["plugin", "function"],
)
def test_torch_and_rich_come_in_with_the_first_check(program: str) -> None:
    done = python(
        "-W", "error", "-c", f"{program}\nimport sys; print(*{{'torch', 'rich', 'numpy'}} & set(sys.modules))"
    )
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def test_integrations_use_public_names_alone() -> None:
    for path in (SOURCE / "integrations").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not [a.name for a in node.names if a.name.startswith("unvanish.")], path
            if isinstance(node, ast.ImportFrom) and node.module == "unvanish":
                assert {alias.name for alias in node.names} <= set(unvanish.__all__), path
            elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("unvanish.integrations."):
                assert node.level == 0 and not (node.module or "").startswith("unvanish"), path


def test_the_fixture_passes_and_fails_tests(project: pytest.Pytester) -> None:
    project.makepyfile(
        CHAIN
        + """
    def test_healthy(assert_healthy):
        assert assert_healthy(zoo.get("small-cnn").build()).verdict == "healthy"

    def test_ignored(assert_healthy):
        assert_healthy(zoo.get("chain-20").build(), ignore=["UV101"])
"""
    )
    result = project.runpytest("-W", "error")
    result.assert_outcomes(passed=2, failed=1)


def test_a_failure_shows_the_line_of_the_test_and_the_report_and_nothing_else(project: pytest.Pytester) -> None:
    project.makepyfile(CHAIN)
    result = project.runpytest()
    result.stdout.fnmatch_lines(
        [
            '>       assert_healthy(zoo.get("chain-20").build())',
            "E       AssertionError: the network is not healthy: vanished (UV101)",
            "E       *Vanished: *",
            "E       The error signal on its way back, input side first",
            "*test_a_failure_*.py:4: AssertionError",
            "FAILED *::test_flow*",
        ]
    )
    result.stdout.no_fnmatch_line("*health.py*")
    result.stdout.no_fnmatch_line("*raise AssertionError*")


def test_the_fixture_is_listed_with_its_help(project: pytest.Pytester) -> None:
    result = project.runpytest("--fixtures", "-v")
    result.stdout.fnmatch_lines(
        [
            "assert_healthy [[]session scope[]]*",
            "    def test_flow(assert_healthy):",
            "        assert_healthy(make_problem())",
        ]
    )


def test_an_installed_package_adds_the_fixture_and_no_import_of_torch(tmp_path: Path) -> None:
    """What ``pip install`` does with the entry point of pyproject.toml, done by hand in a folder of its own."""
    declared = SOURCE.parents[1] / "pyproject.toml"
    if not declared.is_file():
        pytest.skip("the entry point is declared in pyproject.toml, which an installed package does not have")
    (name, value), *rest = tomllib.loads(declared.read_text())["project"]["entry-points"]["pytest11"].items()
    assert (name, value, rest) == ("unvanish", PLUGIN, [])
    metadata = tmp_path / "site" / "unvanish-0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: unvanish\nVersion: 0\n")
    (metadata / "RECORD").write_text("unvanish/__init__.py,,\n")
    (metadata / "entry_points.txt").write_text(f"[pytest11]\n{name} = {value}\n")
    (tmp_path / "test_other.py").write_text(
        "import sys\n\ndef test_other():\n    assert not {'torch', 'rich'} & set(sys.modules)\n"
        "\ndef test_fixture(assert_healthy):\n    assert callable(assert_healthy) and 'torch' not in sys.modules\n"
    )
    path = os.pathsep.join([str(tmp_path / "site"), str(SOURCE.parent)])
    options = ["-W", "error", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    # Imported first, as in a notebook: pytest would warn that it comes too late to rewrite the package.
    imported = "import sys, unvanish, pytest; sys.exit(pytest.main(sys.argv[1:]))"
    for program in (["-m", "pytest"], ["-c", imported]):
        done = python(*program, *options, PYTHONPATH=path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "2 passed" in done.stdout and "warning" not in done.stdout
