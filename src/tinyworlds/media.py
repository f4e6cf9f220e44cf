"""Pictures and films from uint8 arrays: PNG, GIF and MP4 files, and grids of pictures with labels."""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

LABEL_SIZE = 12  # font size, pixels
PAPER, INK = 255, 32  # grey levels around the pictures and of the labels


def enlarge(frames: UInt8[np.ndarray, "*batch H W 3"], factor: int) -> UInt8[np.ndarray, "*batch H2 W2 3"]:
    """Nearest-neighbour upscaling by a whole factor."""
    return frames.repeat(factor, axis=-3).repeat(factor, axis=-2)


def grid(
    images: UInt8[np.ndarray, "R K H W 3"],
    *,
    scale: int = 1,
    gap: int = 2,
    labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """R rows of K pictures on white, `gap` pixels between them and around them, each enlarged `scale` times.

    `labels` name the rows, at their left; `column_labels` the columns, above them. Either may be left empty;
    one of another length is a `ValueError`.
    """
    rows, columns, height, width = images.shape[:-1]
    for given, count, name in ((labels, rows, "labels"), (column_labels, columns, "column_labels")):
        if given and len(given) != count:
            raise ValueError(f"grid: {len(given)} {name} for {count} of them")
    font = ImageFont.load_default(LABEL_SIZE)
    left = max((int(font.getlength(label)) + 2 * gap for label in labels), default=0)
    top = LABEL_SIZE + 2 * gap if column_labels else 0
    height, width = height * scale + gap, width * scale + gap

    page = np.full((top + rows * height + gap, left + columns * width + gap, 3), PAPER, np.uint8)
    tiles = np.full((rows, columns, height, width, 3), PAPER, np.uint8)
    tiles[:, :, gap:, gap:] = enlarge(images, scale)
    page[top : top + rows * height, left : left + columns * width] = tiles.swapaxes(1, 2).reshape(
        rows * height, columns * width, 3
    )

    drawing = Image.fromarray(page)
    pen = ImageDraw.Draw(drawing)
    for row, label in enumerate(labels):
        pen.text((left - gap, top + gap + (row + 0.5) * height), label, (INK,) * 3, font, anchor="rm")
    for column, label in enumerate(column_labels):
        middle = left + gap / 2 + (column + 0.5) * width
        pen.text((middle, top - LABEL_SIZE // 4), label, (INK,) * 3, font, anchor="ms")
    return np.array(drawing)


def gif_bytes(frames: UInt8[np.ndarray, "T H W 3"], fps: float) -> bytes:
    """A film as an endlessly repeating GIF.

    All frames share one palette and nothing is dithered, so what stands still does not flicker; with at most
    256 colours in the whole film every pixel is kept exactly. Frame times are whole hundredths of a second,
    two at least (browsers slow down anything faster), and add up to the film's length.
    """
    count, height, width, _ = frames.shape
    # The film as one tall picture, so that a colour has the same place in the palette in every frame.
    tall = Image.fromarray(frames.reshape(-1, width, 3)).quantize(256)
    pictures = [tall.crop((0, top, width, top + height)) for top in range(0, count * height, height)]
    ticks = np.maximum(np.diff(np.round(np.arange(count + 1) * 100 / fps)), 2).astype(int)
    buffer = BytesIO()
    pictures[0].save(
        buffer,
        "GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=[10 * int(tick) for tick in ticks],
        loop=0,
        optimize=False,
    )
    return buffer.getvalue()


def save_png(path: str | Path, image: UInt8[np.ndarray, "H W 3"]) -> None:
    """Write one picture."""
    with replacing(path) as unfinished:
        Image.fromarray(image).save(unfinished, "PNG")


def save_gif(path: str | Path, frames: UInt8[np.ndarray, "T H W 3"], fps: float) -> None:
    """Write a film as `gif_bytes` makes it."""
    with replacing(path) as unfinished:
        unfinished.write_bytes(gif_bytes(frames, fps))


def save_mp4(path: str | Path, frames: UInt8[np.ndarray, "T H W 3"], fps: float) -> None:
    """Write a film as H.264, which every browser plays; an odd height or width gets its last line twice."""
    _, height, width, _ = frames.shape
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with (
        replacing(path) as unfinished,
        av.open(str(unfinished), "w", format="mp4", options={"movflags": "faststart"}) as film,
    ):
        stream = film.add_stream("libx264", Fraction(fps).limit_denominator(1001), options={"crf": "16"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            film.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        film.mux(stream.encode())


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """An empty file beside `path` to write to, moved to `path` at the end or removed after an error.

    No two have the same name, on whatever machines, and a link that somebody put there is not written through.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    unfinished.touch(exist_ok=False)
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
