import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyworlds.play.protocol import MAX_BYTES, Bounds, Kind, header, parse

BOUNDS = Bounds(actions=4, scenes=3, horizon=2)
GOOD = [
    {"type": "hold", "action": 3},
    {"type": "hold", "action": None},
    {"type": "pause", "on": True},
    {"type": "step"},
    {"type": "reset", "scene": 2, "seed": 0},
    {"type": "reset", "scene": 0},
    {"type": "settings", "seed": 2**31 - 1, "temperature": 0, "steps": 64, "horizon": 2, "fps": 1.5},
    {"type": "settings", "temperature": None},
    {"type": "rewind", "frames": 1},
    {"type": "record", "on": False},
    {"type": "inside", "on": True},
    {"type": "preview"},
    {"type": "ack", "frame": 2**32 - 1},
]


@pytest.mark.parametrize("message", GOOD, ids=str)
def test_what_may_be_said_is_read(message):
    assert parse(json.dumps(message), BOUNDS) == (
        message["type"],
        {name: value for name, value in message.items() if name != "type"},
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"type": "hold"}', "hold needs 'action'"),
        ('{"type": "hold", "action": 4}', "whole number from 0 to 3 or null"),
        ('{"type": "hold", "action": true}', "whole number"),
        ('{"type": "hold", "action": 1.0}', "whole number"),
        ('{"type": "pause", "on": 1}', "true or false"),
        ('{"type": "step", "frames": 2}', "step has no 'frames'"),
        ('{"type": "reset", "scene": 3}', "0 to 2"),
        ('{"type": "reset", "scene": 0, "seed": null}', "whole number"),
        ('{"type": "settings", "temperature": NaN}', "JSON"),
        ('{"type": "settings", "temperature": 1e999}', "number from 0 to 4"),
        ('{"type": "settings", "temperature": 1' + 400 * "0" + "}", "number from 0 to 4"),
        ('{"type": "settings", "horizon": 3}', "1 to 2"),
        ('{"type": "settings", "fps": 0}', "1 to 60"),
        ('{"type": "ack", "frame": -1}', "whole number"),
        ('{"type": "__init__"}', "no message of type '__init__'"),
        ('{"type": ["step"]}', "type"),
        ("[]", "type"),
        ("{", "JSON"),
        ("[" * 3000, "JSON"),
        ("9" * 4000, "JSON|type"),
        ("x" * (MAX_BYTES + 1), f"at most {MAX_BYTES}"),
        ("ü" * MAX_BYTES, f"at most {MAX_BYTES}"),
        ('{"type": "\ud800"}', "no message"),
        (b'{"type": "step"}', "not bytes"),
    ],
    ids=lambda text: str(text)[:30],
)
def test_anything_else_is_refused_with_a_reason(text, said):
    with pytest.raises(ValueError, match=said):
        parse(text, BOUNDS)


@given(kind=st.sampled_from(Kind), frame=st.integers(0, 2**40), action=st.integers(0, 99), ms=st.integers(0, 2**40))
def test_a_header_has_sixteen_bytes(kind, frame, action, ms):
    found = struct.unpack("<4I", header(kind, frame=frame, action=action, milliseconds=ms))
    assert found == (kind, frame % 2**32, action, min(ms, 2**32 - 1))
