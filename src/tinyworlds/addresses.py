"""Where worlds are, in folders or at the Hugging Face Hub's ``hf://user/name[@revision]``, and what is made of them."""

from pathlib import Path

from tinyworlds.repository import check_repo

HUB = "hf://"


def split_address(address: str) -> tuple[str, str | None]:
    """Repository and revision of ``hf://user/name[@revision]``; ``hf://`` may be missing.

    Raises:
        ValueError: it is none.
    """
    repo, _, revision = address.removeprefix(HUB).partition("@")
    check_repo(repo)
    return repo, revision or None


def address(repo: str, revision: str | None) -> str:
    """``hf://user/name[@revision]``, where `repo` may be such an address already."""
    repo, named = split_address(repo)
    return f"{HUB}{repo}" + (f"@{revision or named}" if revision or named else "")


def beside(where: str | Path, name: str, *, runs_dir: str) -> Path:
    """The folder `name` for what is made of a world: in its own, or for a world of the Hub in one in `runs_dir`.

    Raises:
        ValueError: it is a link, which whoever made the world may have put there.
    """
    if str(where).startswith(HUB):
        folder = Path(runs_dir, "hub", split_address(str(where))[0])
    else:
        folder = Path(where) if Path(where).is_dir() else Path(where).parent
    if (folder / name).is_symlink():
        raise ValueError(f"{folder / name} is a link to elsewhere: remove it, or give out=")
    return folder / name
