import re
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from teaching.excerpts import excerpt

pytest.importorskip("mkdocs")
pytest.importorskip("ziamath")

from mkdocs.config import load_config
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from mkdocs.structure.pages import Page

from teaching import site
from teaching.__main__ import FIGURES

BUILDING_BLOCKS = ("transformer", "fsq", "video-tokenizer", "action-tokenizer", "maskgit", "playing")
DOCS = site.ROOT / "docs"


def page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text()


@pytest.mark.parametrize("name", BUILDING_BLOCKS)
def test_a_building_block_has_its_equation_figure_and_code(name: str) -> None:
    text = page(name)
    assert site.EQUATION.search(text)
    assert set(re.findall(r"\(pictures/([^)]+)\)", text)) & set(FIGURES)
    shown = site.SHOWN.findall(text)
    assert shown
    for qualified, path in shown:
        excerpt(site.ROOT / path, qualified)  # what is not there is refused
    assert re.search(r"[Ww]hat goes wrong", text)


def test_every_page_is_in_the_navigation_once() -> None:
    sections = OmegaConf.to_container(OmegaConf.load(site.ROOT / "mkdocs.yml").nav)
    entries = [entry for section in sections for entry in section.values()]
    pages = [page for entry in entries for page in ([entry] if isinstance(entry, str) else entry)]
    assert sorted(next(iter(page.values())) if isinstance(page, dict) else page for page in pages) == sorted(
        path.name for path in DOCS.glob("*.md")
    )


def rewritten(markdown: str) -> str:
    """What a page of docs/ becomes before it is Markdown to MkDocs."""
    file = File("fsq.md", str(DOCS), "site", use_directory_urls=False)
    return site.on_page_markdown(markdown, page=Page("FSQ", file, load_config(str(site.ROOT / "mkdocs.yml"))))


def test_equations_become_pictures_that_can_be_read_aloud() -> None:
    drawn = rewritten("So\n\n```math\n\\frac{a}{b < c}\n```\n\nand on.\n")
    assert re.fullmatch(r'So\n\n<div [^>]*aria-label="\\frac{a}{b &lt; c}"><svg [^\n]*</svg></div>\n\nand on.\n', drawn)


def test_code_is_shown_below_its_name_with_its_line() -> None:
    code, line = excerpt(site.ROOT / "src/tinyworlds/nn/fsq.py", "FSQ.indices")
    shown = rewritten("Before.\n\n[`FSQ.indices`](../src/tinyworlds/nn/fsq.py)\n\nAfter.\n")
    assert shown.startswith("Before.\n\n[`FSQ.indices`](source/src/tinyworlds/nn/fsq.py.md)\n\n```python ")
    assert f'linenums="{line}"\n{code}\n```' in shown


def test_other_links_out_of_the_docs_lead_to_a_page_with_the_file() -> None:
    line = "A [file](../Makefile), a [page](fsq.md#the-code) and [more](https://example.org/../x)."
    assert rewritten(line) == line.replace("../Makefile", "source/Makefile.md")
    assert "\nhelp: ##" in site.listing("Makefile")
    assert "- `fsq.py`" in site.listing("src/tinyworlds/nn/")


def test_what_went_stale_stops_the_building() -> None:
    with pytest.raises(PluginError, match=r"fsq\.md: .*maskgit\.py defines 0 things called decoded"):
        rewritten("[`decoded`](../src/tinyworlds/maskgit.py)")
    with pytest.raises(
        PluginError, match=r"fsq\.md: the equation \\fraction.* has a command that ziamath does not know"
    ):
        rewritten("```math\n\\fraction{a}{b}\n```")
    with pytest.raises(PluginError, match=r"a page links to src/nowhere\.py, which is not there"):
        site.listing("src/nowhere.py")


@pytest.mark.slow
def test_the_site_is_whole_and_needs_no_network(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=site.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for built in tmp_path.rglob("*.html"):
        text = built.read_text()
        assert not re.search(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="(?:https?:)?//', text), built
        assert not re.search(r'<link\b[^>]*\brel="stylesheet"[^>]*\bhref="(?:https?:)?//', text), built
    assert '<div class="equation"' in (tmp_path / "maskgit.html").read_text()
    assert "def decode(" in re.sub("<.*?>", "", (tmp_path / "maskgit.html").read_text())
    assert (tmp_path / "source/src/tinyworlds/maskgit.py.html").exists()
