import contextlib
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinyworlds.torch_files import load, load_plain

DTYPES = ["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
CLASSES = {"utils.config DistributedConfig", "utils.config DeviceType"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "stranger.pt"


def archive(path: Path, pickled: bytes, records: dict[str, bytes] | None = None, **options) -> Path:
    """A torch file with this pickle; `records` are entries by their whole names."""
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr("top/data.pkl", pickled)
        for name, content in (records or {}).items():
            file.writestr(name, content)
    return path


def unpacked(path: Path) -> tuple[bytes, dict[str, bytes]]:
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    (pickled,) = (name for name in entries if name.endswith("/data.pkl"))
    return entries.pop(pickled), {name.replace(name.partition("/")[0], "top", 1): e for name, e in entries.items()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_torch_saved_is_loaded(path, dtype):
    numbers = torch.arange(12).to(getattr(torch, dtype))
    saved = {"a": numbers.view(3, 4).T, "b": [1, 2.5, None, True, "text", (2**40, ())], 3: OrderedDict(c=numbers[2:])}
    torch.save(saved, path)
    loaded = load(path)
    assert torch.equal(loaded["a"], saved["a"])
    assert torch.equal(loaded[3]["c"], numbers[2:])
    assert loaded["b"] == saved["b"]


def test_a_state_dict_with_its_versions_is_loaded(path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    torch.save(model.state_dict(), path)
    model.load_state_dict(load(path))


class Call:
    """Pickled, a call of `function`."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.mkdir, os.system, eval, exec], ids=lambda function: function.__name__)
@pytest.mark.parametrize("nest", [lambda x: x, lambda x: {"config": {"a": [1, (x,)]}}, lambda x: {x: 1}])
def test_a_call_is_refused_by_name_and_not_made(path, function, nest):
    canary = path.parent / "canary"
    argument = {
        os.mkdir: str(canary), os.system: f"mkdir {canary}",
    }.get(function, f"__import__('os').mkdir({str(canary)!r})")  # fmt: skip
    torch.save(nest(Call(function, argument)), path)
    for read in (load, lambda path: load_plain(path, stand_ins=CLASSES)):
        with pytest.raises(ValueError, match=rf"stranger\.pt names \w+\.{function.__name__}, .* nothing of it was run"):
            read(path)
    assert not canary.exists()
    pickle.loads(pickle.dumps(Call(function, argument)))
    assert canary.exists()  # it would have


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


DISTRIBUTED = b"cutils.config\nDistributedConfig\n"
MKDIR = text("canary") + b"\x85R."
EXPLOITS = {
    "stack_global": b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93" + MKDIR,
    "dotted name": b"\x80\x04\x8c\x02os\x8c\x0bpath.os.mkdir\x93" + MKDIR,
    "dotted global": b"\x80\x02cos\npath.os.mkdir\n" + MKDIR,
    "dotted stand-in": b"\x80\x02cutils.config\nDistributedConfig.__init__.__globals__\n.",
    "inst": b"\x80\x02(" + text("canary") + b"ios\nmkdir\n.",
    "obj": b"\x80\x02(cos\nmkdir\n" + text("canary") + b"o.",
    "extension": b"\x80\x02\x82\x01.",
    "persistent id": b"\x80\x02Pcanary\n.",
    "call of a tensor's maker": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + text("canary") + b"\x85R.",
    "call of a storage": b"\x80\x02ctorch\nFloatStorage\nK\x05\x85R.",
    "call of a dict with content": b"\x80\x02ccollections\nOrderedDict\n]\x85R.",
    "build of a class": b"\x80\x02" + DISTRIBUTED + b"}" + text("__class__") + b"K\x01sb.",
    "build of a string": b"\x80\x02" + text("a") + b"}" + text("__class__") + b"K\x01sb.",
    "state with slots": b"\x80\x02" + DISTRIBUTED + b")\x81N}" + text("update") + b"K\x01s\x86b.",
    "arguments of a stand-in": b"\x80\x02" + DISTRIBUTED + b"K\x01\x85\x81.",
    "two arguments of an enum": b"\x80\x02" + DISTRIBUTED + b"K\x01K\x02\x86R.",
    "no end": b"\x80\x02}",
    "an empty stack": b"\x80\x02.",
    "more than one value": b"\x80\x02NN.",
    "a mark alone": b"\x80\x02(.",
    "a forgotten number": b"\x80\x02h\x05.",
    "a text longer than the file": b"\x80\x02X\xff\xff\xff\xff.",
    "bytes longer than the file": b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f.",
    "a key that overflows the stack": b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s.",
}  # fmt: skip


@pytest.mark.parametrize("exploit", EXPLOITS)
def test_tricks_of_pickles_are_refused(path, monkeypatch, exploit):
    monkeypatch.chdir(path.parent)
    archive(path, EXPLOITS[exploit])
    for read in (load, lambda path: load_plain(path, stand_ins=CLASSES)):
        with pytest.raises(ValueError, match=r"stranger\.pt "):
            read(path)
    assert [file.name for file in path.parent.iterdir()] == ["stranger.pt"]


def test_stand_ins_are_their_attributes_and_nothing_else(path):
    state = b"}" + text("__class__") + text("os.system") + b"s" + b"}" + text("use_ddp") + b"\x88s"
    archive(path, b"\x80\x02" + DISTRIBUTED + b")\x81" + state[: state.index(b"s}") + 1] + b"b.")
    made = load_plain(path, stand_ins=CLASSES)
    assert made == {"__class__": "os.system"}
    assert isinstance(made, dict)
    archive(path, b"\x80\x02cutils.config\nDeviceType\n" + text("cuda") + b"\x85R.")
    assert load_plain(path, stand_ins=CLASSES) == "cuda"


def test_only_the_named_classes_have_stand_ins(path):
    archive(path, b"\x80\x02" + DISTRIBUTED + b")\x81.")
    assert load_plain(path, stand_ins=CLASSES) == {}
    with pytest.raises(ValueError, match=r"names utils\.config\.DistributedConfig"):
        load(path)
    torch.save({"a": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"names torch\._utils\._rebuild_tensor_v2"):
        load_plain(path, stand_ins=CLASSES)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ((b"M\xe8\x03t", b"J\x00\x00\x00\x7ft"), "declares 8522825728 bytes for the record '0', which has 4000"),
        ((b"M\xe8\x03t", b"J\xff\xff\xff\xfft"), "declares"),
        ((b"M\xe8\x03\x85", b"J\x00\x00\x00\x7f\x85"), r"shape \(2130706432,\) with 1000 numbers"),
        ((b"M\xe8\x03\x85", b"J\xff\xff\xff\xff\x85"), "in a way that torch does not"),
        ((b"QK\x00", b"QK\x01"), r"shape \(1000,\) with 1000 numbers"),
        ((b"K\x01\x85", b"K\x00\x85"), None),
        ((b"M\xe8\x03\x85q\x08K\x01\x85q\t", b"M\xe8\x03K\x02\x86q\x08K\x00K\x01\x86q\t"), r"shape \(1000, 2\)"),
    ],
)
def test_tensors_of_more_numbers_than_there_are_are_refused(path, change, named):
    torch.save({"a": torch.arange(1000.0)}, path)
    pickled, records = unpacked(path)
    assert pickled.count(change[0]) == 1
    archive(path, pickled.replace(*change), records)
    if named is None:
        assert load(path)["a"].shape == (1000,)
        return
    with pytest.raises(ValueError, match=named):
        load(path)


def test_one_record_cannot_stand_for_any_number_of_tensors(path):
    numbers = torch.zeros(10_000)
    torch.save([numbers.view(100, 100), numbers[5:]], path)
    assert len(load(path)) == 2
    torch.save([numbers[i:] for i in range(100)], path)
    with pytest.raises(ValueError, match="far more numbers than it has"):
        load(path)


ENTRIES = {
    "../outside": "outside the folder",
    "/etc/outside": "outside the folder",
    "top/../../outside": "outside the folder",
    "top\\..\\outside": "outside the folder",
    "other/data/0": "outside the folder",
    "top/data.pkl": "two entries of one name",
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ENTRIES)
def test_entries_outside_or_twice_are_refused(path, name):
    archive(path, b"\x80\x02N.", {name: b"1"})
    with pytest.raises(ValueError, match=ENTRIES[name]):
        load(path)
    assert [file.name for file in path.parent.iterdir()] == ["stranger.pt"]


def test_a_compressed_file_may_be_a_bomb_and_is_refused(path):
    archive(path, b"\x80\x02N.", {"top/data/0": bytes(10**8)}, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**6
    with pytest.raises(ValueError, match="is compressed"):
        load(path)


def test_sizes_that_the_file_does_not_have_are_refused(path):
    archive(path, b"\x80\x02N.", {"top/data/0": b"1234"})
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<II", 4, 4), struct.pack("<II", 2**30, 2**30)))
    with pytest.raises(ValueError, match="declares more bytes than it has"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"nothing", pickle.dumps({"a": 1}), b"PK\x05\x06" + bytes(18)])
def test_what_is_no_torch_file_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"stranger\.pt is no file of torch"):
        load(path)


def test_a_description_out_of_all_proportion_is_refused(path):
    archive(path, b"\x80\x02" + b"N0" * 2**22 + b"N.")
    with pytest.raises(ValueError, match="describes its tensors in more than"):
        load(path)


def test_a_missing_file_is_named(path):
    with pytest.raises(FileNotFoundError, match=r"no file .*stranger\.pt"):
        load(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@given(data=st.data())
def test_a_damaged_file_is_loaded_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "stranger.pt"
    torch.save({"a": torch.arange(6.0).view(2, 3), "b": {"c": [1, 2.5, "d"]}}, path)
    pickled, records = unpacked(path)
    damaged = bytearray(pickled)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    archive(path, bytes(damaged[: data.draw(st.sampled_from([len(damaged), len(damaged) // 2]))]), records)
    with contextlib.suppress(ValueError):
        load(path)
