from pathlib import Path

import pytest

from teaching.excerpts import excerpt

SOURCE = '''\
LEAST: int = 3
MOST = {
    "a": 4,
}


class Thing:
    """A thing."""

    @property
    def size(self) -> int:
        return LEAST

    def grow(self) -> None:
        """Grow."""


def grow() -> None:
    """Another."""
'''


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "thing.py"
    path.write_text(SOURCE)
    return path


@pytest.mark.parametrize(
    ("name", "line", "code"),
    [
        ("LEAST", 1, "LEAST: int = 3"),
        ("MOST", 2, 'MOST = {\n    "a": 4,\n}'),
        ("Thing.size", 10, "@property\ndef size(self) -> int:\n    return LEAST"),
        ("Thing.grow", 14, 'def grow(self) -> None:\n    """Grow."""'),
        ("grow", 18, 'def grow() -> None:\n    """Another."""'),
    ],
)
def test_what_a_name_defines_is_found_whole(path: Path, name: str, line: int, code: str) -> None:
    assert excerpt(path, name) == (code, line)


@pytest.mark.parametrize("name", ["Thin", "Thing.shrink", "grow.more", "LEAST.x"])
def test_a_name_that_is_not_there_is_refused(path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"thing\.py defines 0 things called {name}"):
        excerpt(path, name)


def test_a_name_of_two_things_is_refused(path: Path) -> None:
    path.write_text(SOURCE + SOURCE)
    with pytest.raises(ValueError, match="defines 2 things called grow"):
        excerpt(path, "grow")
