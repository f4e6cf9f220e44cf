"""The project's own files agree with each other."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from itertools import chain
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [Requirement(text) for text in chain(PROJECT["dependencies"], *EXTRAS.values())]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
MAKEFILE = (ROOT / "Makefile").read_text()


def make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder with what the environment is made from, and no environment."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    return tmp_path


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_every_requirement_is_pinned_to_a_version_it_allows(requirement: Requirement):
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)])


def test_pins_are_exact_canonical_and_sorted():
    assert list(PINS) == sorted(canonicalize_name(name) for name in PINS)
    assert all(re.fullmatch(r"[\d.]+", version) for version in PINS.values())


def test_what_the_requirements_require_is_pinned_too():
    todo, seen = list(REQUIREMENTS), set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        assert name in PINS, f"{requirement} is missing in constraints.txt"
        if (name, *requirement.extras) in seen or name == "torch":  # torch's own differ between its builds
            continue
        seen.add((name, *requirement.extras))
        for text in requires(name) or []:
            below = Requirement(text)
            if not below.marker or any(below.marker.evaluate({"extra": e}) for e in ("", *requirement.extras)):
                todo.append(below)


def test_the_malicious_releases_of_lightning_are_excluded():
    (lightning,) = [requirement for requirement in REQUIREMENTS if requirement.name == "lightning"]
    assert lightning.specifier.contains("2.6.6")
    assert not any(lightning.specifier.contains(version) for version in ("2.6.2", "2.6.3"))


def test_conda_installs_what_make_installs():
    environment = OmegaConf.load(ROOT / "environment.yml")
    python, pip, packages = environment.dependencies
    assert environment.name == PROJECT["name"]
    assert pip == "pip"
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python="))
    extras = re.search(r"^EXTRAS := (.*)$", MAKEFILE, re.MULTILINE)[1]
    assert list(packages.pip) == ["-c constraints.txt", f"-e .[{extras}]"]
    assert set(extras.split(",")) <= set(EXTRAS)


def test_help_is_the_default_and_names_every_target():
    targets = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split()
    shown = make().stdout
    assert re.findall(r"^  make (\S+) +\S", shown, re.MULTILINE) == targets
    assert shown == make("help").stdout


@pytest.mark.parametrize(
    "target",
    [
        "data",
        "world",
        "play",
        "evaluate",
        "test",
        "test-slow",
        "lint",
        "bench",
        "bench-play",
        "docs",
        "figures",
        "tensorboard",
    ],
)
def test_every_target_brings_its_own_environment(bare: Path, target):
    recipe = make("-n", target, folder=bare).stdout
    assert "-m venv --clear .venv" in recipe
    assert (
        recipe.index("torch==")
        < recipe.index("-e '.[games,play,sweeps,docs,dev]'")
        < recipe.rindex(".venv/bin/python ")
    )


@pytest.mark.parametrize(("game", "data"), [("pong", "atari_pong"), ("vizdoom", "vizdoom"), ("sonic", "sonic")])
def test_game_chooses_the_data(bare: Path, game, data):
    recipe = make("-n", "world", f"GAME={game}", folder=bare).stdout
    assert f"train.py data={data}\n" in recipe
    assert f"play.py mode=rollout dataset={data}\n" in recipe
    if game == "pong":
        assert make("-n", "world", folder=bare).stdout == recipe


def test_a_python_that_is_missing_or_unfit_is_one_sentence(bare: Path):
    old = bare / "old-python"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.1\nexit 1\n')
    old.chmod(0o755)
    for python, sentence in (
        ("./no-python", "no ./no-python here"),
        (old, "is Python 3.9.1; choose another"),
    ):
        result = make("env", f"PYTHON={python}", folder=bare)
        assert result.returncode != 0
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
        assert sentence in line
        assert not (bare / ".venv").exists()


@pytest.fixture
def environment(bare: Path) -> Path:
    """An environment made by a stand-in for Python that notes what is asked of it and installs nothing."""
    python = bare / "python"
    python.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, shutil, sys\n"
        "with open('calls', 'a') as calls: print(*sys.argv[1:], file=calls)\n"
        "if 'venv' in sys.argv:\n"
        "    shutil.rmtree('.venv', ignore_errors=True)\n"
        "    pathlib.Path('.venv/bin').mkdir(parents=True)\n"
        "    shutil.copy(sys.argv[0], '.venv/bin/python')\n"
        "if 'pip' in sys.argv and pathlib.Path('fail').exists(): sys.exit('interrupted')\n"
    )
    python.chmod(0o755)
    assert make("env", "PYTHON=./python", folder=bare).returncode == 0
    return bare


def asked(environment: Path, *arguments: str) -> str:
    """What `make env` with these arguments asks of Python."""
    (environment / "calls").write_text("")
    make("env", *arguments, folder=environment)
    return "\n".join(line for line in (environment / "calls").read_text().splitlines() if line.startswith("-m"))


def test_a_current_environment_is_left_alone(environment: Path):
    assert asked(environment) == ""
    assert asked(environment, "PYTHON=./python") == ""


def test_an_environment_is_updated_when_the_pins_change(environment: Path):
    pins = environment / "constraints.txt"
    pins.write_text(re.sub("^torch==.*$", "torch==9.9.9", pins.read_text(), flags=re.MULTILINE))
    assert "torch==9.9.9" in asked(environment)
    assert asked(environment) == ""


def test_an_interrupted_environment_is_made_anew(environment: Path):
    (environment / "fail").touch()
    assert "pip" in asked(environment, "TORCH=torch==2.12.0")
    (environment / "fail").unlink()
    calls = asked(environment)
    assert "venv --clear" in calls
    assert "torch==2.12.0" in calls, "the choice is kept"
    assert asked(environment) == ""


def test_another_choice_makes_it_anew_and_is_remembered(environment: Path):
    calls = asked(environment, "TORCH=torch==2.12.0", "TORCH_INDEX=https://example.org/cpu")
    assert "venv --clear" in calls
    assert "--index-url https://example.org/cpu torch==2.12.0" in calls
    assert asked(environment) == ""
    assert "torch==" not in (environment / ".venv" / "constraints.txt").read_text()
    assert PINS["torch"] in asked(environment, f"TORCH=torch=={PINS['torch']}", "TORCH_INDEX=")
