"""Frames to begin a game from: held-out ones of a store, or those that came with a shared world."""

from io import BytesIO
from pathlib import Path

import numpy as np
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from tinyworlds.data.clip_datamodule import ClipDataModule
from tinyworlds.data.collection import files
from tinyworlds.models import Dynamics, Stage

SCENES = "scenes.png"
"""Of a shared world: a row for each scene, its frames side by side."""
COUNT = 8
MAX_BYTES = 20 * 10**6
MAX_SCENES = 64


def held_out(stage: Stage, *, store: str | None) -> ClipDataModule:
    """The held-out frames of the store that a stage was trained on, or of another `store` of the same game.

    Raises:
        FileNotFoundError: the store is not there.
        ValueError: its frames have another size.
    """
    dataset = stage.dataset
    data = ClipDataModule(
        name=dataset["name"],
        path=store or dataset["path"],
        clip_length=1,
        clip_stride=1,
        batch_size=1,
        num_workers=0,
        cache_tokens=False,
        val_fraction=dataset["val_fraction"],
        seed=0,
    )
    there = files(data.path)
    if not there:
        raise FileNotFoundError(
            f"the frames of this world are not at {data.path}: give frames of its game with store=PATH"
        )
    if store is None and len(there) != dataset.get("stores", 1):
        raise ValueError(
            f"this world was trained on {dataset.get('stores', 1)} stores, {data.path} matches {len(there)}, so other "
            "frames would be held out: give store=PATH of frames that it was not trained on"
        )
    data.setup()
    if data.frame_size != stage.frame_size:
        raise ValueError(f"{data.path} has frames of {data.frame_size}, this world makes {stage.frame_size}")
    return data


def take(dynamics: Dynamics, *, store: str | None) -> UInt8[np.ndarray, "N T H W 3"]:
    """`COUNT` scenes of as many held-out frames as a world sees, or of the longest episode if that has fewer.

    Raises:
        FileNotFoundError: the store is not there.
        ValueError: its frames have another size.
    """
    data = held_out(dynamics, store=store)
    longest = int((data.held_out_spans[:, 1] - data.held_out_spans[:, 0]).max())
    return data.held_out_clips(count=COUNT, length=min(dynamics.context_length, longest), seed=0)


def find(dynamics: Dynamics, *, store: str | None, folder: Path | None) -> UInt8[np.ndarray, "N T H W 3"]:
    """Scenes of a `store` that is named, those in the world's `folder`, or of the store it was trained on.

    Raises:
        FileNotFoundError: there are none; the sentence names the option.
        ValueError: they have another size.
    """
    shared = None if folder is None else folder / SCENES
    if store is None and shared is not None and shared.is_file():
        return read(shared, size=dynamics.frame_size)
    return take(dynamics, store=store)


def png_bytes(scenes: UInt8[np.ndarray, "N T H W 3"]) -> bytes:
    """The content of `SCENES`."""
    buffer = BytesIO()
    Image.fromarray(rearrange(scenes, "n t h w c -> (n h) (t w) c")).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def read(path: Path, *, size: tuple[int, int]) -> UInt8[np.ndarray, "N T H W 3"]:
    """The scenes in a file that `png_bytes` made, of frames of height and width `size`.

    Raises:
        ValueError: it holds something else, or far too much.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path} has over {MAX_BYTES} bytes: it is no file of scenes")
    height, width = size
    try:
        with Image.open(BytesIO(content), formats=["PNG"]) as image:
            columns, rest = divmod(image.width, width)
            rows, below = divmod(image.height, height)
            if rest or below or not (1 <= rows <= MAX_SCENES and 1 <= columns <= MAX_SCENES) or image.mode != "RGB":
                raise ValueError(f"{path} does not hold scenes of frames of {height}x{width}: remove it")
            pixels = np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as scenes: {error}") from None
    return rearrange(pixels, "(n h) (t w) c -> n t h w c", h=height, w=width)
