"""Resizing by area: each new pixel is the exact mean of the part of the picture that it covers."""

import numpy as np
from jaxtyping import Float32, UInt8


class AreaFilter:
    """Scales pictures of `source` height and width to `target` height and width."""

    def __init__(self, *, source: tuple[int, int], target: tuple[int, int]) -> None:
        self._same = source == target
        self._rows = area_weights(source[0], target[0])
        self._columns = area_weights(source[1], target[1])

    def __call__(self, image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "H W 3"]:
        if self._same:
            return image
        height, width = image.shape[:2]
        rows = self._rows @ image.reshape(height, width * 3).astype(np.float32)
        scaled = self._columns @ rows.reshape(-1, width, 3)
        return np.asarray(np.rint(scaled), np.uint8)


def area_weights(source: int, target: int) -> Float32[np.ndarray, "target source"]:
    """A line of `source` pixels cut into `target` equal cells: the share of each cell that is each pixel."""
    edges = np.linspace(0, source, target + 1)
    pixels = np.arange(source)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.asarray(overlap.clip(min=0) * target / source, np.float32)
