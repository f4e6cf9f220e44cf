"""Messages that no page of ours would send, to a server on which others play."""

import json
import urllib.error
import urllib.parse
import urllib.request

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyworlds.play.protocol import BURST, MAX_BYTES, Kind
from tinyworlds.play.recording import frames_digest, read_log, replay

from .client import joined

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
KINDS = [
    "hold",
    "pause",
    "step",
    "reset",
    "settings",
    "rewind",
    "record",
    "inside",
    "preview",
    "ack",
    "hello",
    "__init__",
]
NAMES = ["action", "on", "scene", "seed", "frame", "frames", "fps", "steps", "horizon", "temperature", "self"]
MALFORMED = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=200),
    JSON.map(json.dumps),
    st.text(min_size=MAX_BYTES, max_size=MAX_BYTES + 50),
    st.builds(
        lambda kind, values: json.dumps({**values, "type": kind}),
        st.sampled_from(KINDS),
        st.dictionaries(st.sampled_from(NAMES), JSON, min_size=1, max_size=3),
    ),
)


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_malformed_messages_disturb_nobody(served, player, opening, tmp_path, count):
    """Each is answered, by an error unless it happens to be well-formed, and what another player sees stays exact."""
    player.say("record", on=True)
    sent = []

    @settings(max_examples=count, suppress_health_check=list(HealthCheck))
    @given(message=MALFORMED)
    def draw(message: str | bytes) -> None:
        sent.append(message)

    draw()
    assert len(sent) >= count
    errors, before = 0, player.until(Kind.FRAME).number
    for start in range(0, len(sent), BURST // 4):
        with joined(served) as fuzzer:
            for message in sent[start : start + BURST // 4]:
                fuzzer.socket.send(message)
            fuzzer.say("nonsense")
            while True:
                answer = fuzzer.next()
                if isinstance(answer, dict) and answer["type"] == "error":
                    errors += 1
                    if "nonsense" in answer["message"]:
                        break
        player.frames(1)
    assert errors > 0.9 * count
    assert player.until(Kind.FRAME).number > before + count // BURST
    player.say("record", on=False)
    recorded = player.until("recorded")
    content = urllib.request.urlopen(f"{served}/recordings/{recorded['id']}.json").read()
    (tmp_path / "log.json").write_bytes(content)
    log = read_log(tmp_path / "log.json", opening.world.dynamics)
    assert frames_digest(replay(log, opening.world.dynamics)) == log["sha256"]
