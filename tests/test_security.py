"""Files that strangers made to do harm, in every place where a file is read."""

import functools
import json
import pickle
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tinyworlds import World, probe
from tinyworlds.addresses import beside
from tinyworlds.checkpoints import load_stage, newest, write_result
from tinyworlds.data.clips import Clips
from tinyworlds.data.hub import fetch_shared, store_card
from tinyworlds.data.store import FrameStore
from tinyworlds.data.token_cache import TokenCache
from tinyworlds.data.truth import true_actions
from tinyworlds.data.video import Extraction
from tinyworlds.interop import read_checkpoint
from tinyworlds.media import replacing
from tinyworlds.models import Dynamics, VideoTokenizer
from tinyworlds.models.tokenizers import Tokenizers
from tinyworlds.repository import fetch
from tinyworlds.torch_files import load

from .contained import contained, outcome
from .exploits import CANARY, EXPLOITS, EXTRACTION, PLAIN, Call, frames_in, linux, saved, with_locator


def in_world(name: str) -> Callable[[Path, bytes], None]:
    """Read a world's folder whose file `name` is the exploit."""

    def read(folder: Path, content: bytes) -> None:
        shutil.copytree(folder / "valid", folder / "world")
        (folder / "world" / name).write_bytes(content)
        World.load(folder / "world")

    return read


def shared(name: str) -> Callable[[Path, bytes], None]:
    """Share a world beside which `name` is the exploit."""

    def read(folder: Path, content: bytes) -> None:
        (folder / "world").mkdir()
        (folder / "world" / name).write_bytes(content)
        world = World(opened_once(folder / "valid.ckpt"))
        world.folder = folder / "world"
        world.save_pretrained(folder / "again")

    return read


@functools.cache
def opened_once(path: Path) -> Dynamics:
    return load_stage(path, Dynamics)


def in_file(name: str, read: Callable[[Path], Any]) -> Callable[[Path, bytes], None]:
    def place(folder: Path, content: bytes) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        read(folder / name)

    return place


def public_folder(state: bool) -> Callable[[Path, bytes], None]:
    def place(folder: Path, content: bytes) -> None:
        (folder / "public").mkdir()
        (folder / "public" / "state.pt").write_bytes(content if state else saved({"config": {}}))
        (folder / "public" / "model_state_dict.pt").write_bytes(saved({}) if state else content)
        config, _ = read_checkpoint(folder / "public")
        assert config, "the exploit was read"

    return place


def with_result(path: Path) -> None:
    newest(path.parents[3], "game", "dynamics")


def kept_tokens(folder: Path, content: bytes) -> None:
    """Train on tokens kept beside a store that came with them."""
    with FrameStore(frames_in(folder / "world" / "frames.h5")) as store:
        world = opened_once(folder / "valid.ckpt")
        clips = Clips(store, np.array([[0, 8]]), length=4, stride=1)
        cache = TokenCache(store, clips, Tokenizers(world.video_tokenizer, world.action_tokenizer), batch_size=2)
        cache.path.parent.mkdir(exist_ok=True)
        cache.path.write_bytes(content)
        cache.clips()


def kept_probe(folder: Path, content: bytes) -> None:
    """Evaluate on a store beside which a probe lies."""
    spans = np.array([[0, 8]])
    with FrameStore(frames_in(folder / "world" / "frames.h5")) as store:
        path = store.path.with_name(f"frames.probe-{probe._key(store, spans, 0)}.safetensors")
        path.write_bytes(content)
        probe.cached_probe(store, spans, n_actions=2, seed=0)


READERS: dict[str, Callable[[Path, bytes], None]] = {
    "world.ckpt": in_file("world.ckpt", World.load),
    "tokenizer.ckpt": in_file("tokenizer.ckpt", lambda path: load_stage(path, VideoTokenizer)),
    "world/model.safetensors": in_world("model.safetensors"),
    "world/config.json": in_world("config.json"),
    "world/metrics.json": shared("metrics.json"),
    "world/preview.gif": shared("preview.gif"),
    "public.pth": in_file("public.pth", read_checkpoint),
    "public/state.pt": public_folder(state=True),
    "public/model_state_dict.pt": public_folder(state=False),
    "frames.h5": in_file("frames.h5", FrameStore),
    "actions": in_file("frames.h5", lambda path: true_actions(path, 0, 1)),
    "game.mp4": in_file("game.mp4", lambda path: Extraction(**EXTRACTION).write(path, path.with_suffix(".h5"))),
    "tokens": kept_tokens,
    "probe": kept_probe,
    "result.json": in_file("runs/game/dynamics/1/result.json", with_result),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", READERS)
def test_an_exploit_is_refused_wherever_it_is_read(folder, reader):
    known = {"valid.ckpt", "valid", "world", "public", "runs", reader, "frames.h5"}
    for name, made in EXPLOITS.items():
        for path in ("world", "public"):
            shutil.rmtree(folder / path, ignore_errors=True)
        content = made()
        assert outcome(lambda content=content: READERS[reader](folder, content)), name
        assert {path.name for path in folder.iterdir()} <= known, name
        assert [path.name for path in folder.parent.iterdir()] == ["inside"], name
    pickle.loads(pickle.dumps(Call()))
    assert (folder / CANARY).exists()  # it would have


@linux
def test_small_checkpoints_that_describe_large_models_take_no_memory(folder):
    checkpoint = torch.load(folder / "valid.ckpt", weights_only=True)
    tokenizer = checkpoint["hyper_parameters"]["video_tokenizer"]
    changes: dict[str, dict[str, Any]] = {
        "embed_dim": {"embed_dim": 60000},
        "hidden_dim": {"hidden_dim": 2**40},
        "blocks": {"num_blocks": 10**6},
        "experts": {"feed_forward": {"name": "moe", "num_experts": 60000, "top_k": 1, "balance_weight": 0.0}},
        "clip": {"dataset": {**checkpoint["hyper_parameters"]["dataset"], "clip_length": 10**9}},
        "size": {"video_tokenizer": {**tokenizer, "frame_size": (2**20, 2**20)}},
        "bins": {"video_tokenizer": {**tokenizer, "num_bins": 1200}},
        "text": {"embed_dim": "16"},
        "nothing": {"dataset": {}},
        "tensor": {"mask_ratio": torch.zeros(3)},
    }

    def read() -> list[str]:
        sentences = []
        for change in changes.values():
            torch.save({**checkpoint, "hyper_parameters": {**checkpoint["hyper_parameters"], **change}}, "large.ckpt")
            sentences.append(outcome(lambda: World.load("large.ckpt")))
        return sentences

    sentences = dict(zip(changes, contained(read), strict=True))
    for name, sentence in sentences.items():
        assert sentence.startswith("large.ckpt was made by another version"), name
    assert "num_experts=60000 is more than 64" in sentences["experts"]


def test_a_result_names_only_a_file_beside_it(folder):
    run = folder / "runs" / "game" / "dynamics" / "1"
    for name in ("../../evil.ckpt", "/etc/passwd", "", "..", 5, None):
        run.mkdir(parents=True, exist_ok=True)
        (run / "result.json").write_text(json.dumps({"checkpoint": name}))
        assert "is no file beside it" in outcome(lambda: newest(folder / "runs", "game", "dynamics"))


def test_files_of_the_user_are_not_passed_on_through_links(folder):
    world = World.load(folder / "valid.ckpt")
    world.save_pretrained(folder / "world")
    (folder / "secret.json").write_text('{"token": "hf_secret"}')
    (folder / "world" / "metrics.json").symlink_to(folder / "secret.json")
    assert "is a link that leads outside" in outcome(
        lambda: World.load(folder / "world").save_pretrained(folder / "again")
    )
    assert not (folder / "again").exists()


def test_nothing_is_written_through_a_link_in_a_worlds_folder(folder, monkeypatch):
    (folder / "world").mkdir()
    (folder / "outside").mkdir()
    (folder / "world" / "play").symlink_to(folder / "outside")
    assert "is a link to elsewhere" in outcome(lambda: beside(folder / "world", "play", runs_dir="runs"))
    (folder / "target").write_text("kept")
    foreseen = uuid.uuid4()
    monkeypatch.setattr(uuid, "uuid4", lambda: foreseen)
    (folder / f".out.txt.{foreseen.hex}").symlink_to(folder / "target")
    with pytest.raises(FileExistsError), replacing(folder / "out.txt") as unfinished:
        unfinished.write_text("written")
    assert (folder / "target").read_text() == "kept"


def test_a_config_of_hydra_beside_a_world_is_not_read(folder, monkeypatch):
    monkeypatch.setenv("SECRET", "hf_secret")
    target = "{_target_: os.system, command: touch canary}"
    for place in (folder, folder / "valid"):
        (place / "config.yaml").write_text(f"name: ${{oc.env:SECRET}}\nstage: {target}\n")
        (place / ".hydra").mkdir()
        shutil.copy(place / "config.yaml", place / ".hydra" / "config.yaml")
    for number, world in enumerate((folder / "valid.ckpt", folder / "valid")):
        World.load(world).save_pretrained(folder / f"again{number}")
        for written in (folder / f"again{number}").iterdir():
            assert b"hf_secret" not in written.read_bytes()
    assert not (folder / CANARY).exists()


@pytest.mark.parametrize("name", ["../x.h5", "$(touch canary).h5", "-x.h5", "a\nb.h5", "..h5"])
def test_a_store_of_an_odd_name_is_not_written(hub, tmp_path, name):
    hub.add("datasets/me/frames", {name: b"x"})
    assert outcome(lambda: fetch_shared("me/frames", tmp_path / "data"))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("file", ["../../secret", "/etc/passwd", "a/../../secret", "..\\secret"])
def test_a_file_outside_a_repository_is_not_fetched(hub, file):
    hub.add("models/me/world", {"config.json": b"{}"})
    assert "outside of it" in outcome(lambda: fetch("me/world", file, kind="model", place="here"))


def test_cards_show_foreign_text_as_text(folder, small_store):
    world = World.load(folder / "valid.ckpt")
    world.dynamics.dataset["name"] = "<script>alert(1)</script> [x](javascript:1)"
    run = folder / "run"
    command = "python train.py\n```\n<img src=x>"
    write_result(run, stage="dynamics", checkpoint=run / "a.ckpt", metric=0.5, seconds=1.0, command=command)
    names = ["up|down", "`x`\n\n# Heading", "<b>", "none"]
    (run / "metrics.json").write_text(json.dumps({"actions": {"names": names}, "a|b": 10**400, "<i>": 1.5}))
    world.folder = run
    world.save_pretrained(folder / "world")
    card = (folder / "world" / "README.md").read_text()
    for markup in ("<script>", "[x](", "<img", "<b>", "<i>", "\n# Heading"):
        assert markup not in card, markup
    assert "The command was not kept" in card
    with h5py.File(small_store, "r+") as file:
        file.attrs["source"] = "<script>|x|"
    with FrameStore(small_store) as store:
        assert "<script>" not in store_card(store, repo="me/frames", license="mit")


def test_weights_that_are_another_pickle_within_safetensors_are_only_bytes(folder):
    save_file({"a": torch.frombuffer(bytearray(pickle.dumps(Call())), dtype=torch.uint8)}, folder / "a.safetensors")
    (folder / "world").mkdir()
    (folder / "world" / "model.safetensors").write_bytes((folder / "a.safetensors").read_bytes())
    World.load(folder / "valid.ckpt").save_pretrained(folder / "world", overwrite=True)
    (folder / "world" / "model.safetensors").write_bytes((folder / "a.safetensors").read_bytes())
    assert "does not fit its config.json" in outcome(lambda: World.load(folder / "world"))
    assert not (folder / CANARY).exists()


def test_the_directory_of_an_archive_is_where_torch_reads_it(tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(PLAIN)
    assert load(path) == {"stage": "video_tokenizer"}
    for content in (PLAIN + b"\0", b"\0" + PLAIN, PLAIN[:-2] + b"\x01\x00x", with_locator(PLAIN, PLAIN)):
        path.write_bytes(content)
        assert outcome(lambda: load(path))
