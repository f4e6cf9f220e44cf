"""Stores from the Hugging Face Hub."""

from pathlib import Path

from huggingface_hub import hf_hub_download

from tinyworlds.data.store import FrameStore, StoreWriter
from tinyworlds.progress import track

BLOCK_FRAMES = 2048


def fetch_store(repository: str, file: str, path: Path) -> None:
    """Write the dataset repository's `file` to the store `path`.

    The downloaded file stands beside `path` under its own name until it is rewritten; one that was put there
    by hand is used, and stays.

    Raises:
        FileNotFoundError: it cannot be downloaded; the sentence says how to place it by hand.
        ValueError: it is no store.
    """
    original = path.with_name(file)
    if original.exists():
        rewrite(original, path, source=f"{repository}/{file}")
        return
    try:
        hf_hub_download(repository, file, repo_type="dataset", local_dir=path.parent)
    except Exception as error:
        # The client's failures (network, HTTP status, offline mode, disk) share no base class.
        address = f"https://huggingface.co/datasets/{repository}/resolve/main/{file}"
        raise FileNotFoundError(
            f"{file} could not be downloaded ({type(error).__name__}): get it from {address} and place it at {original}"
        ) from error
    rewrite(original, path, source=f"{repository}/{file}")
    if original != path:
        original.unlink()


def rewrite(original: Path, path: Path, *, source: str) -> None:
    """Copy the frames of `original` into a store that is chunked for reading clips.

    The public files are chunked by h5py's guess, a little of each of a thousand frames together: every clip
    read from one decompresses tens of megabytes.
    """
    with (
        FrameStore(original) as frames,
        StoreWriter(path, height=frames.height, width=frames.width, source=source, fps=frames.fps) as writer,
    ):
        starts = range(0, frames.num_frames, BLOCK_FRAMES)
        for start in track(starts, total=len(starts), label=f"rewriting {original.name}"):
            writer.append(frames.read(start, min(start + BLOCK_FRAMES, frames.num_frames)))
