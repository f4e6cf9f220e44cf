"""Folders that hold no world, or not the one that they describe."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tinyworlds import World
from tinyworlds.pretrained import CONFIG, WEIGHTS, read_config


@pytest.fixture
def folder(dynamics, tmp_path: Path) -> Path:
    World(dynamics).save_pretrained(tmp_path / "world")
    return tmp_path / "world"


def change(folder: Path, *keys: str, value: object) -> None:
    """Set a value in the folder's config."""
    config = json.loads((folder / CONFIG).read_text())
    part = config
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    (folder / CONFIG).write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("format",), 2, "its format is 2"),
        (("hyper_parameters",), [], "no hyper_parameters"),
        (("hyper_parameters", "num_blocks"), 10**9, "num_blocks=1000000000 is more than"),
        (("hyper_parameters", "num_blocks"), 3, "does not fit its config.json: transformer.blocks.2"),
        (("hyper_parameters", "num_blocks"), "2", "describes no world"),
        (("hyper_parameters", "embed_dim"), 60000, "does not fit its config.json"),
        (("hyper_parameters", "embed_dim"), -16, "describes no world"),
        (("hyper_parameters", "depth"), 2, "describes no world.*depth"),
        (("hyper_parameters", "dataset", "clip_length"), 10**6, "clip_length=1000000"),
        (("hyper_parameters", "decoding", "temperature"), float("nan"), "NaN is no number"),
        (("hyper_parameters", "video_tokenizer", "frame_size"), [10**8, 10**8], "frame_size=100000000"),
        (("hyper_parameters", "video_tokenizer", "latent_dim"), 30, "describes no world"),
        (("hyper_parameters", "video_tokenizer"), None, "describes no world"),
        (("hyper_parameters", "x"), [[[[[[[[[1]]]]]]]]], "nested too deeply"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_before_memory_is_taken(folder, keys, value, said):
    change(folder, *keys, value=value)
    with pytest.raises(ValueError, match=said):
        World.load(folder)


def test_a_window_that_would_take_all_memory_is_refused(folder):
    for part in ("video_tokenizer", "action_tokenizer"):
        change(folder, "hyper_parameters", part, "frame_size", value=[2048, 2048])
    change(folder, "hyper_parameters", "dataset", "clip_length", value=1024)
    with pytest.raises(ValueError, match="its window has 67108864 tokens"):
        World.load(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", "1" * 10_000, "[" * 10**5, '{"a": ' * 10**5, '"' + "x" * 2 * 10**6])
def test_what_is_no_config_is_refused(folder, text):
    (folder / CONFIG).write_text(text)
    with pytest.raises(ValueError, match="is no config of a world"):
        read_config(folder / CONFIG)


def tensors_changed(folder: Path, name: str, value: torch.Tensor | None) -> None:
    tensors = load_file(folder / WEIGHTS)
    if value is None:
        del tensors[name]
    else:
        tensors[name] = value
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mask_token", None),
        ("mask_token", torch.zeros(4)),
        ("mask_token", torch.zeros(3, dtype=torch.float64)),
        ("another", torch.zeros(3)),
    ],
)
def test_weights_of_other_names_shapes_or_types_are_refused(folder, name, value):
    tensors_changed(folder, name, value)
    with pytest.raises(ValueError, match=f"does not fit its config.json: {name} is"):
        World.load(folder)


def header(entries: dict[str, object]) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 100,
        struct.pack("<Q", 2**62) + b"{}",
        header({"mask_token": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
        header({"mask_token": {"dtype": "F32", "shape": [3], "data_offsets": [0, 4]}}) + bytes(4),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}) + bytes(400),
    ],
)
def test_a_header_that_does_not_fit_the_file_is_refused(folder, content):
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(ValueError, match="is no safetensors file"):
        World.load(folder)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.999])
def test_truncated_weights_are_refused(folder, share):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="is no safetensors file"):
        World.load(folder)
