"""Pictures and films from strangers, as scenes to begin from."""

import math
import struct
import tempfile
from collections.abc import Iterable, Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
from av import VideoFrame
from jaxtyping import UInt8
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

from tinyworlds.data.video import open_video

MAX_BYTES = 16 * 10**6
MAX_PIXELS = 2**24
PICTURES = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
FPS = 15.0
"""At which films are read, if they have as many."""
MAX_DECODED = 1000
"""Frames of a film that are looked at."""


def read_scene(content: bytes, *, size: tuple[int, int], count: int) -> UInt8[np.ndarray, "T H W 3"]:
    """The first frames of a picture or film, at most `count`, resized to the height and width `size`.

    Of another form than those, the middle is cut out.

    Raises:
        ValueError: it is neither picture nor film, or too large.
    """
    if len(content) > MAX_BYTES:
        raise ValueError(f"a scene has at most {MAX_BYTES // 10**6} MB")
    try:
        with Image.open(BytesIO(content), formats=PICTURES) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(_too_large(image.width, image.height))
            frames = islice(ImageSequence.Iterator(image), count)
            return np.stack([fitted(ImageOps.exif_transpose(frame), size) for frame in frames])
    except UnidentifiedImageError:
        return _film(content, size, count)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(f"this picture cannot be read: {error}") from None


def _film(content: bytes, size: tuple[int, int], count: int) -> UInt8[np.ndarray, "T H W 3"]:
    with tempfile.NamedTemporaryFile(suffix=".film") as file:
        file.write(content)
        file.flush()
        try:
            with open_video(Path(file.name)) as container:
                stream = container.streams.video[0]
                if stream.width * stream.height > MAX_PIXELS:
                    raise ValueError(_too_large(stream.width, stream.height))
                decoded = islice(container.decode(stream), MAX_DECODED)
                frames = [
                    fitted(Image.fromarray(frame.to_ndarray(format="rgb24")), size)
                    for frame in islice(_spread(decoded), count)
                ]
        except ValueError as error:
            raise ValueError(str(error).replace(file.name, "this file")) from None
    if not frames:
        raise ValueError("this film has no frames")
    return np.stack(frames)


def _spread(frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
    """Frames of a film at `FPS`, or all where there are fewer."""
    last = -math.inf
    for frame in frames:
        if frame.time is None or frame.time >= last + 0.99 / FPS:
            last = -math.inf if frame.time is None else frame.time
            yield frame


def fitted(picture: Image.Image, size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """The middle of a picture, in the form of the world's frames, of height and width `size`."""
    height, width = size
    return np.asarray(ImageOps.fit(picture.convert("RGB"), (width, height), Image.Resampling.BOX))


def _too_large(width: int, height: int) -> str:
    return f"it has {height}x{width} pixels, more than {MAX_PIXELS}"
