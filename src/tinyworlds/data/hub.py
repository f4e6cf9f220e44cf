"""Stores from the Hugging Face Hub, and stores shared there with a card."""

import re
import shlex
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
from huggingface_hub import DatasetCardData
from PIL import Image

from tinyworlds.data.frames import Frames
from tinyworlds.data.store import FrameStore, StoreWriter, check_free
from tinyworlds.markdown import inline
from tinyworlds.media import grid, replacing
from tinyworlds.progress import track
from tinyworlds.repository import fetch, files, page, upload

BLOCK_FRAMES = 2048
MOST_EXPANSION = 1100
"""Deflate, the strongest of the filters, packs at most 1,032 bytes into one."""
STORE_NAME = re.compile(r"\w[\w. -]*\.h5")
SHEET = "contact_sheet.png"
SHEET_ROWS, SHEET_COLUMNS = 4, 8


def fetch_store(repository: str, file: str, path: Path, *, size: int) -> None:
    """Write the dataset repository's `file`, of square frames of `size` pixels, to the store `path`.

    The downloaded file stays in the Hub's cache; one that was put beside `path` by hand, under its own name, is
    used instead, and stays.

    Raises:
        FileNotFoundError: it cannot be downloaded; the sentence says how to place it by hand.
        ValueError: it is no store, or one of other frames.
    """
    original = path.with_name(file)
    if not original.exists():
        original = fetch(repository, file, kind="dataset", place=f"at {original}")
    rewrite(original, path, source=f"{repository}/{file}", size=size)


def rewrite(original: Path, path: Path, *, source: str, size: int) -> None:
    """Copy the frames of `original` into a store that is chunked for reading clips.

    The public files are chunked by h5py's guess, a little of each of a thousand frames together: every clip
    read from one decompresses tens of megabytes.
    """
    with FrameStore(original) as frames:
        check_frame_size(frames, size)
        if frames.num_frames * size * size * 3 > MOST_EXPANSION * original.stat().st_size:
            raise ValueError(f"{original} declares {frames.num_frames} frames, far more than it can hold")
        with StoreWriter(path, height=size, width=size, source=source, fps=frames.fps) as writer:
            starts = range(0, frames.num_frames, BLOCK_FRAMES)
            for start in track(starts, total=len(starts), label=f"rewriting {original.name}"):
                writer.append(frames.read(start, min(start + BLOCK_FRAMES, frames.num_frames)))


def check_frame_size(store: Frames, size: int) -> None:
    """Refuse a store whose frames are not square with sides of `size` pixels: `ValueError`."""
    if (store.height, store.width) != (size, size):
        raise ValueError(
            f"{store.path} has frames of {store.height}x{store.width}, this dataset has {size}x{size}: "
            "move the file away to have it fetched again"
        )


def fetch_shared(repo: str, folder: Path) -> Path:
    """Copy the one store of a dataset repository, as `upload_store` put it there, to `folder`; returns its path.

    Raises:
        FileNotFoundError: it cannot be downloaded.
        ValueError: the repository has no store or several, or a file is there already.
    """
    _, names = files(repo, kind="dataset", place=f"in {folder}")
    stores = [name for name in names if name.endswith(".h5") and "/" not in name]
    if len(stores) != 1:
        raise ValueError(f"{page(repo, 'dataset')} has {len(stores)} stores (.h5); one is needed")
    if not STORE_NAME.fullmatch(stores[0]):
        raise ValueError(f"{page(repo, 'dataset')} has a store of the odd name {stores[0]!r}: get it by hand")
    path = folder / stores[0]
    check_free(path, "dir")
    cached = fetch(repo, stores[0], kind="dataset", place=f"at {path}")
    FrameStore(cached).close()
    with replacing(path) as unfinished:
        shutil.copyfile(cached, unfinished)
    return path


def upload_store(path: Path, repo: str, *, private: bool, license: str) -> str:
    """Upload a store and its card to the dataset repository ``user/name``; returns its address.

    Raises:
        FileNotFoundError: there is no such store.
        ValueError: it is none, its name is one that `fetch_shared` refuses, or the Hub does not take it.
    """
    if not STORE_NAME.fullmatch(path.name):
        raise ValueError(f"{path} is to be shared: rename it to letters, digits, spaces and any of . _ - with .h5 last")
    with FrameStore(path) as store:
        content: dict[str, Path | bytes] = {
            path.name: path,
            "README.md": store_card(store, repo=repo, license=license).encode(),
            SHEET: contact_sheet(store),
        }
    return upload(repo, content, kind="dataset", private=private, message="Frames of TinyWorlds")


def contact_sheet(store: FrameStore) -> bytes:
    """A PNG of frames spread evenly over the store."""
    count = SHEET_ROWS * SHEET_COLUMNS
    shown = np.linspace(0, store.num_frames - 1, count).round().astype(int)
    frames = store.read_clips(shown, 1).reshape(SHEET_ROWS, SHEET_COLUMNS, store.height, store.width, 3)
    buffer = BytesIO()
    Image.fromarray(grid(frames)).save(buffer, "PNG")
    return buffer.getvalue()


def store_card(store: FrameStore, *, repo: str, license: str) -> str:
    """The dataset card of a store: Markdown with the Hub's metadata in front."""
    name = repo.rpartition("/")[2]
    about = DatasetCardData(license=license, pretty_name=name, tags=["tinyworlds", "world-model", "video"])
    actions = "none" if store.action_names is None else inline(", ".join(store.action_names))
    fps = "not known" if store.fps is None else f"{store.fps:g}"
    return (
        f"---\n{about.to_yaml()}\n---\n\n# {name}\n\n"
        "Frames of a game, for learning a world model from them with TinyWorlds.\n\n"
        f"![Frames spread evenly over the recording]({SHEET})\n\n"
        "| | |\n|---|---|\n"
        f"| frames | {store.num_frames} |\n| size | {store.height} x {store.width} |\n| frames per second | {fps} |\n"
        f"| episodes | {len(store.episode_starts)} |\n| true actions, for evaluation alone | {actions} |\n"
        f"| source | {inline(store.source)} |\n\n"
        f"`{store.path.name}` is an HDF5 file: `frames` is uint8 (N, H, W, 3), `episode_starts` the first frame of "
        "each episode.\n\n"
        f"```sh\npython -m tinyworlds.hub download dataset={repo}\n"
        f"python train.py data=video data.path={shlex.quote(f'data/{store.path.name}')} data.name={name}\n```\n"
    )
