"""Share worlds and datasets: ``python -m tinyworlds.hub download world=user/name``."""

import contextlib
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from hydra import compose
from hydra.errors import HydraException
from omegaconf import DictConfig

from tinyworlds.addresses import address, split_address
from tinyworlds.command import build, command
from tinyworlds.data.datamodules import PublicStore
from tinyworlds.data.hub import fetch_shared, upload_store
from tinyworlds.data.store import FrameStore
from tinyworlds.interop import convert
from tinyworlds.pretrained import CARD, CONFIG, METRICS, PREVIEW, WEIGHTS, fetch_world
from tinyworlds.repository import check_repo, fetch, files
from tinyworlds.scenes import SCENES
from tinyworlds.world import World

PUBLIC_WORLDS = "AlmondGod/tinyworlds-models"
PARTS = {"video_tokenizer": "video_tokenizer", "action_tokenizer": "actions", "dynamics": "dynamics"}
"""What the public project calls its checkpoints, by our names."""
USE = "choose download or upload: python -m tinyworlds.hub download dataset=zelda"


@command("hub")
def main(config: DictConfig) -> None:
    """Download or upload one dataset or one world, as conf/hub.yaml says."""
    verbs: dict[str, Callable[[DictConfig], None]] = {"download": download, "upload": upload}
    if config.verb not in verbs:
        raise ValueError(f"there is no verb {config.verb}; {USE}" if config.verb else USE)
    if (config.dataset is None) == (config.world is None):
        raise ValueError(f"{config.verb}: give either dataset= or world=")
    for key in ("dataset", "world", "repo", "dir"):
        if config[key] is not None:
            config[key] = str(config[key])  # YAML makes numbers of some names
    idle = "repo" if config.verb == "download" else "dir"
    if config[idle] is not None:
        raise ValueError(f"{config.verb} has no use for {idle}={config[idle]}: leave it out")
    verbs[config.verb](config)


def download(config: DictConfig) -> None:
    """Fetch the dataset or world that is named, and say how it is used."""
    if config.dataset is not None:
        path = download_dataset(config.dataset, Path(config.dir or config.data_dir))
        with FrameStore(path) as store:
            print(f"{path}: {store.num_frames} frames of {store.height}x{store.width} from {store.source}")
        return
    if "/" not in config.world:
        where: str | Path = convert_public(config.world, Path(config.dir or f"worlds/{config.world}"))
    else:
        where = download_world(config.world, config.dir)
    scenes = "" if (World.load(where).folder or Path()).joinpath(SCENES).is_file() else " store=FRAMES.h5"
    print(f"play it: python play.py ckpt={where}{scenes}")


def upload(config: DictConfig) -> None:
    """Share the store or world that is named in the repository ``repo``."""
    if config.repo is None:
        raise ValueError("upload: give repo=user/name")
    if not isinstance(config.private, bool):
        raise ValueError(f"private={config.private}: give true or false")
    check_repo(config.repo)
    options = {"private": config.private, "license": config.license}
    if config.dataset is not None:
        where = upload_store(Path(config.dataset), config.repo, **options)
    else:
        where = World.load(config.world).push_to_hub(config.repo, **options)
    print(f"shared: {where}")


def download_dataset(name: str, folder: Path) -> Path:
    """The store of a public dataset, or of one that was shared as ``user/name``, written to `folder`."""
    if "/" in name:
        return fetch_shared(name, folder)
    data = None
    with contextlib.suppress(HydraException):
        config = compose("prepare", [f"data={name if name.isidentifier() else 'none'}"])
        config.data_dir = str(folder)
        data = build(config.data) if name != "video" else None  # that one needs a path
    if not isinstance(data, PublicStore):
        public = ", ".join(sorted(re.sub(r"_frames.h5$", "", kind.file) for kind in PublicStore.__subclasses__()))
        raise ValueError(f"dataset={name}: give one of {public}, or user/name")
    data.prepare_data()
    data.open_store().close()
    return data.path


def download_world(name: str, folder: str | None) -> str | Path:
    """A shared world, fetched into the Hub's cache, or copied with its card to `folder`; what to open it by."""
    repo, revision = split_address(name)
    if folder is not None:
        _check_empty(Path(folder))
    cached = fetch_world(repo, revision=revision)
    World.load(cached)
    if folder is None:
        return address(repo, revision)
    for extra in (CARD, PREVIEW):
        with contextlib.suppress(FileNotFoundError):  # not every world has all
            fetch(repo, extra, kind="model", revision=cached.name, place=f"in {folder}")
    Path(folder).mkdir(parents=True, exist_ok=True)
    for file in (CARD, METRICS, PREVIEW, SCENES, WEIGHTS, CONFIG):
        if (cached / file).is_file():
            shutil.copyfile(cached / file, Path(folder, file))
    return Path(folder)


def convert_public(suite: str, folder: Path) -> Path:
    """The newest checkpoints of the public project for a game, converted to a world in `folder`."""
    _check_empty(folder)
    by_hand = "in a folder and convert them with `python -m tinyworlds.interop`"
    commit, there = files(PUBLIC_WORLDS, kind="model", place=by_hand)
    suites = sorted({path.partition("/")[0] for path in there if "/" in path})
    if suite not in suites:
        raise ValueError(f"world={suite}: give one of {', '.join(suites)}, or user/name")
    chosen = {}
    for part, called in PARTS.items():
        wanted = newest_checkpoint([path for path in there if path.startswith(f"{suite}/")], called)
        if not wanted:
            raise ValueError(f"{PUBLIC_WORLDS} has no checkpoint called …{called}… of {suite}")
        paths = [fetch(PUBLIC_WORLDS, path, kind="model", revision=commit, place=by_hand) for path in wanted]
        chosen[part] = paths[0] if len(paths) == 1 else paths[0].parent
    World(convert(**chosen)).save_pretrained(folder)
    return folder


def newest_checkpoint(paths: list[str], called: str) -> list[str]:
    """The files of the checkpoint with the highest step among those with `called` in their name.

    A checkpoint is a file, or a folder of several, of which the state of the optimizer is left out.
    """
    found: dict[PurePosixPath, list[str]] = {}
    for path in paths:
        pure = PurePosixPath(path)
        named = [place for place in (pure, *pure.parents) if called in place.name]
        if named and "optim" not in pure.name and pure.suffix in (".pth", ".pt"):
            found.setdefault(named[0], []).append(path)

    def step(place: PurePosixPath) -> tuple[int, str]:
        number = re.search(r"step_?(\d+)", place.name)
        return int(number[1]) if number else -1, place.name

    return sorted(found[max(found, key=step)]) if found else []


def _check_empty(folder: Path) -> None:
    """Refuse a folder that has a world or other files in it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"dir={folder} is there already: move it away, or give another")


if __name__ == "__main__":
    # Hydra knows no positional arguments.
    sys.argv[1:] = [a if "=" in a or a.startswith("-") else f"verb={a}" for a in sys.argv[1:]]
    main()
