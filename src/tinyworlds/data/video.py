"""Extract frames from a video, or from a folder of them: ``python -m tinyworlds.data.video path=game.mp4``."""

import dataclasses
import glob
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
from tinyworlds.data.collection import files, folder_of, is_pattern
from tinyworlds.data.settings import check_number, check_whole, crop_box, frame_size
from tinyworlds.data.store import FrameStore, StoreWriter, check_free, check_settings
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
VIDEO_SUFFIXES = (
    ".3gp", ".asf", ".avi", ".flv", ".gif", ".ivf", ".m2ts", ".m4v", ".mj2", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg",
    ".mts", ".ogg", ".ogv", ".ts", ".webm", ".wmv", ".y4m",
)  # fmt: skip
"""Of what is taken for a video in a folder."""


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


def videos_in(path: Path, out: Path | None) -> dict[Path, Path]:
    """The videos in a folder, or that a pattern such as ``films/*.mkv`` matches, sorted, each with its store.

    Stores are beside the videos, or in the folder `out`, where they are in folders as the videos are.

    Raises:
        FileNotFoundError: there is none.
        ValueError: two would have one store.
    """
    folder = path if path.is_dir() else folder_of(path)
    found = files(Path(glob.escape(str(path)), "*") if path.is_dir() else path)
    videos = [file for file in found if file.suffix.lower() in VIDEO_SUFFIXES or not path.is_dir()]
    if not videos:
        raise FileNotFoundError(f"no video is in {path}: a folder's are those that end in {' '.join(VIDEO_SUFFIXES)}")
    stores: dict[Path, Path] = {}
    for video in videos:
        store = (video if out is None else out / video.relative_to(folder)).with_suffix(".h5")
        if store in stores:
            raise ValueError(f"{stores[store]} and {video} would both be {store}: rename one of them")
        stores[store] = video
    return {video: store for store, video in stores.items()}


def extract_shard(extraction: Extraction, stores: Mapping[Path, Path], *, shard: int, shards: int) -> None:
    """Extract the videos of one of `shards` equal parts of `stores`, but for those that were extracted before.

    Raises:
        ValueError: a store is there that was made with other settings, before anything is done; or some videos
            could not be extracted, after all others were.
    """
    check_whole("shards", shards, at_least=1)
    check_whole("shard", shard, at_least=0)
    if shard >= shards:
        raise ValueError(f"shard={shard}: there are shards={shards}, numbered from 0")
    for video, store in stores.items():
        if store.exists():
            check_settings(FrameStore(store), extraction.settings(video))
    own = list(stores.items())[shard::shards]
    failures = []
    for number, (video, store) in enumerate(own, start=1):
        place = f"shard {shard}, {number} of {len(own)}:"
        if store.exists():
            print(f"{place} {video} is in {store} already", flush=True)
            continue
        for part in store.parent.glob(f".{glob.escape(store.name)}.*.part"):  # of a job that was killed
            part.unlink()
        try:
            print(f"{place} {extraction.write(video, store)} frames of {video} in {store}", flush=True)
        except (ValueError, FileNotFoundError) as error:
            print(f"{place} {error}", flush=True)
            failures.append(str(error))
    if failures:
        raise ValueError(f"{len(failures)} of {len(own)} videos of shard {shard} were left out: {'; '.join(failures)}")


@command("video")
def main(config: DictConfig) -> None:
    """Extract as conf/video.yaml says."""
    path, out = Path(config.path), None if config.out is None else Path(config.out)
    own = [str(key) for key in config if key not in ("path", "out", "shard", "shards")]
    extraction: Extraction = build(OmegaConf.masked_copy(config, own))
    if path.is_dir() or is_pattern(path):
        extract_shard(extraction, videos_in(path, out), shard=config.shard, shards=config.shards)
        return
    if config.shards != 1:
        raise ValueError(f"shards={config.shards}: path={path} is one video, only a folder of videos has shards")
    out = out or store_beside(path)
    if out == path:
        raise ValueError(f"path={path}: is a store already, not a video")
    check_free(out, "out")
    print(f"{extraction.write(path, out)} frames of {path} in {out}")


if __name__ == "__main__":
    main()
