"""Extract frames from a video: ``python -m tinyworlds.data.video path=game.mp4``."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.filter import Graph
from jaxtyping import UInt8
from omegaconf import DictConfig, OmegaConf

from tinyworlds.command import build, command
from tinyworlds.data.settings import check_number, crop_box, frame_size
from tinyworlds.data.store import StoreWriter, check_free
from tinyworlds.progress import track

FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,asf,ogg,gif,ivf,yuv4mpegpipe,h264,hevc,wav,mp3"
)
"""FFmpeg's names of what is a film in one file; others are lists of further files to read, or of devices."""
MAX_PIXELS = 2**25
"""Of a frame: 8K."""
MAX_GAP = 3600
"""Seconds from one frame to the next, which ``fps=`` fills with copies."""
STORE_SUFFIXES = (".h5", ".hdf5")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extraction:
    """Which frames of a video to keep and how; conf/extraction/default.yaml says what each setting means.

    Raises:
        ValueError: a setting has an impossible value.
    """

    fps: float | None
    size: int | Sequence[int]
    crop: Mapping[str, int | None]
    start: float
    end: float | None

    def __post_init__(self) -> None:
        frame_size(self.size)
        if self.fps is not None:
            check_number("fps", self.fps, at_least=0.01)
        check_number("start", self.start, at_least=0)
        if self.end is not None:
            check_number("end", self.end, at_least=self.start)

    def settings(self, video: Path) -> dict[str, Any]:
        """Everything that decides what is extracted, as plain values.

        Raises:
            FileNotFoundError: there is no such video.
        """
        return {"video": video.name, "bytes": existing(video).stat().st_size, **dataclasses.asdict(self)}

    def write(self, video: Path, path: Path) -> int:
        """Extract `video` to the store `path`, frame by frame; the number of frames kept.

        Raises:
            FileNotFoundError: there is no such video.
            ValueError: it is unreadable, or nothing of it is between `start` and `end`.
        """
        settings = self.settings(video)
        height, width = frame_size(self.size)
        with open_video(video) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            fps = self.fps or (float(stream.average_rate) if stream.average_rate else None)
            options: dict[str, Any] = {"source": video.name, "fps": fps, "settings": settings}
            with StoreWriter(path, height=height, width=width, **options) as writer:
                frames = self._frames(container, stream)
                for frame in track(frames, total=self._expected(container, fps), label=f"extracting {video.name}"):
                    writer.append(frame[None])
                if writer.num_frames == 0:
                    raise ValueError(f"{video} has no frame between start={self.start} and end={self.end}")
            return writer.num_frames

    def _expected(self, container: Any, fps: float | None) -> int | None:
        """About how many frames there will be, where the file says how long it is."""
        if fps is None or container.duration is None:
            return None
        seconds = float(container.duration / av.time_base)
        return max(1, round((min(seconds, self.end or seconds) - self.start) * fps))

    def _frames(self, container: Any, stream: Any) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        graph = self._graph(stream)
        if self.start > 0:
            container.seek(int(self.start * av.time_base))  # to the key frame before
        last: float | None = None
        for decoded in container.decode(stream):
            if decoded.time is not None and last is not None and abs(decoded.time - last) > MAX_GAP:
                raise ValueError(f"the clock of {container.name} jumps by more than {MAX_GAP} s at {last:g} s")
            last = decoded.time
            if decoded.time is not None and decoded.time < self.start:
                continue
            if decoded.time is not None and self.end is not None and decoded.time >= self.end:
                break
            graph.push(decoded)
            yield from pulled(graph)
        graph.push(None)
        yield from pulled(graph)

    def _graph(self, stream: Any) -> Graph:
        """FFmpeg's filters from a decoded frame to a small RGB one."""
        rows, columns = crop_box(self.crop, height=stream.height, width=stream.width)
        height, width = frame_size(self.size)
        box = f"{columns.stop - columns.start}:{rows.stop - rows.start}:{columns.start}:{rows.start}"
        chain = [
            *([("fps", f"{self.fps}")] if self.fps is not None else []),
            ("format", "rgb24"),  # before the crop: in YUV it would be rounded to even rows and columns
            ("crop", box),
            ("scale", f"{width}:{height}:flags=area+accurate_rnd+full_chroma_inp+full_chroma_int"),
            ("format", "rgb24"),
        ]
        graph = Graph()
        graph.link_nodes(
            graph.add_buffer(template=stream), *(graph.add(*step) for step in chain), graph.add("buffersink")
        ).configure()
        return graph


@contextmanager
def open_video(video: Path) -> Iterator[InputContainer]:
    """The video, open, unless it is something else.

    Raises:
        ValueError: it is no film, or one that cannot be read, then or while it is open.
    """
    # An absolute name cannot be taken for an address.
    limits = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        with av.open(str(video.resolve()), options=limits) as container:
            if not container.streams.video:
                raise ValueError(f"{video} has no video in it")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise ValueError(f"{video} cannot be read as a video: it is in no form that FFmpeg knows")
            if stream.width * stream.height > MAX_PIXELS:
                raise ValueError(f"{video} is of {stream.height}x{stream.width} pixels, more than {MAX_PIXELS}")
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            yield container
    except av.error.ArgumentError:
        raise ValueError(f"{video} cannot be read as a video: it is of no format that films have") from None
    except av.error.FFmpegError as error:
        raise ValueError(f"{video} cannot be read as a video: {error.strerror}") from None


def pulled(graph: Graph) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """The frames that the graph has ready."""
    while True:
        try:
            frame = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        assert isinstance(frame, av.VideoFrame)
        yield frame.to_ndarray(format="rgb24")


def existing(video: Path) -> Path:
    """`video`, unless there is no such file: FileNotFoundError."""
    if not video.is_file():
        raise FileNotFoundError(f"there is no video {video}")
    return video


def store_beside(video: Path) -> Path:
    """Where a video's frames are kept: beside it, ending in .h5. A store is its own."""
    return video if video.suffix in STORE_SUFFIXES else video.with_suffix(".h5")


@command("video")
def main(config: DictConfig) -> None:
    """Extract as conf/video.yaml says."""
    video = Path(config.path)
    out = store_beside(video) if config.out is None else Path(config.out)
    if out == video:
        raise ValueError(f"path={video}: is a store already, not a video")
    check_free(out, "out")
    extraction: Extraction = build(OmegaConf.masked_copy(config, [str(k) for k in config if k not in ("path", "out")]))
    print(f"{extraction.write(video, out)} frames of {video} in {out}")


if __name__ == "__main__":
    main()
