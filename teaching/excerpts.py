"""Lines of the source, found by the name of what they define."""

import ast
import textwrap
from pathlib import Path
from typing import NamedTuple


class Excerpt(NamedTuple):
    """Code without its indentation, and the number of its first line in the file."""

    code: str
    line: int


def excerpt(path: Path, name: str) -> Excerpt:
    """What `name`, as ``decode`` or ``FSQ.forward``, is in the Python file `path`: a function, class or constant.

    Raises:
        ValueError: the file defines nothing of that name, or more than one thing.
    """
    source = path.read_text()
    body: list[ast.stmt] = ast.parse(source).body
    for part in name.split("."):
        found = [node for node in body if part in _names(node)]
        if len(found) != 1:
            raise ValueError(f"{path} defines {len(found)} things called {name}, so none can be shown")
        body = getattr(found[0], "body", [])
    first = min([found[0].lineno, *(node.lineno for node in getattr(found[0], "decorator_list", []))])
    lines = source.splitlines()[first - 1 : found[0].end_lineno]
    return Excerpt(textwrap.dedent("\n".join(lines)), first)


def _names(node: ast.stmt) -> list[str]:
    """What a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]
