"""What MkDocs does with the pages in docs/ besides, so that they are read on GitHub and as a site alike.

A link that is a line of its own, with a name as its text, as [`decode`](../src/tinyworlds/maskgit.py), is followed
by the code that the name stands for. Links to files outside of docs/ lead to a page with the file. Equations are
drawn while the site is built: a page needs no script, no fonts and no network for them.
"""

import html
import re
from pathlib import Path
from typing import Any

import ziamath
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

from teaching.excerpts import excerpt

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = re.compile(r"(?<=\]\()\.\./([^)#\s]+)(?=\))")
"""Where a link leads that leaves docs/, from the repository's root."""
SHOWN = re.compile(r"^\[`([\w.]+)`\]\(\.\./(\S+\.py)\)$", re.M)
EQUATION = re.compile(r"^```math\n(.+?)\n```$", re.M | re.S)
EQUATION_SIZE = 18  # pixels
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file that a page links to."""
    pages = [file.content_string for file in files.documentation_pages()]
    for target in sorted({target for text in pages for target in OUTSIDE.findall(text)}):
        page = File.generated(config, _page_of(target), content=listing(target), inclusion=InclusionLevel.NOT_IN_NAV)
        files.append(page)
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Show the code that is named, draw equations, and lead links out of docs/ to the pages of what they name."""
    if page.file.generated_by is not None:
        return markdown
    try:
        shown = SHOWN.sub(lambda match: _with_code(match[1], match[2]), markdown)
        shown = EQUATION.sub(lambda match: drawn(match[1]), shown)
    except ValueError as error:
        raise PluginError(f"{page.file.src_uri}: {error}") from None
    return OUTSIDE.sub(lambda match: _page_of(match[1]), shown)


def listing(target: str) -> str:
    """A page with a file's content, or the names in a folder; the search leaves it out."""
    path = ROOT / target
    if path.is_dir():
        body = "\n".join(f"- `{entry.name}`" for entry in sorted(path.iterdir()) if not entry.name.startswith("_"))
    elif path.is_file():
        body = f'``````{LANGUAGES.get(path.suffix, "text")} linenums="1"\n{path.read_text().rstrip()}\n``````'
    else:
        raise PluginError(f"a page links to {target}, which is not there")
    return f"---\nsearch:\n  exclude: true\nhide: [toc]\n---\n\n# {target}\n\n{body}\n"


def drawn(latex: str) -> str:
    """An equation as SVG, read aloud as LaTeX.

    Raises:
        ValueError: it has a command that is not known.
    """
    ziamath.config.svg2 = False  # its symbols have names, which equations of one page would share
    equation = ziamath.Latex(latex, size=EQUATION_SIZE, color="currentColor")
    if "\\" in equation.mathmlstr():
        raise ValueError(f"the equation {latex} has a command that ziamath does not know")
    return f'<div class="equation" role="img" aria-label="{html.escape(latex)}">{equation.svg()}</div>'


def _page_of(target: str) -> str:
    return f"source/{target.rstrip('/')}.md"


def _with_code(name: str, path: str) -> str:
    """The link and the code."""
    code, line = excerpt(ROOT / path, name)
    return f'[`{name}`]({_page_of(path)})\n\n```python title="{path}" linenums="{line}"\n{code}\n```'
