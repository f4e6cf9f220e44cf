import os
import signal
import socket
import subprocess
import sys

import pytest

from tinyworlds.command import CONF
from tinyworlds.play import browser
from tinyworlds.scenes import SCENES, png_bytes


def test_a_taken_port_is_named_with_what_to_do(entry_point, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit):
        entry_point("play.py", f"port={taken.getsockname()[1]}", "ckpt=nowhere")
    said = capsys.readouterr().err
    assert "is taken: choose another with port=" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "option", ["port=-1", "port=70000", "max_players=0", "max_players=65", "host=203.0.113.1", "mode=window"]
)
def test_impossible_options_are_one_sentence(entry_point, capsys, option):
    with pytest.raises(SystemExit):
        entry_point("play.py", option, "ckpt=nowhere")
    said = capsys.readouterr().err
    assert option in said
    assert said.count("\n") == 1


def test_actions_are_the_players_own(entry_point, capsys):
    with pytest.raises(SystemExit):
        entry_point("play.py", "actions=[0,1]", "ckpt=nowhere")
    assert "actions=[0, 1] is for mode=rollout" in capsys.readouterr().err


def test_without_the_extra_it_is_named(entry_point, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "tinyworlds.play.server", raising=False)
    with pytest.raises(SystemExit):
        entry_point("play.py", "ckpt=nowhere", "port=0")
    assert "mode=browser needs uvicorn: install it with `pip install -e '.[play]'`" in capsys.readouterr().err


def test_addresses_are_shown_as_a_browser_wants_them():
    assert [browser.shown(host) for host in ("0.0.0.0", "::1", "localhost")] == ["127.0.0.1", "[::1]", "localhost"]


@pytest.mark.slow
def test_ctrl_c_ends_it_while_somebody_plays(opening, tmp_path):
    from .client import joined

    folder = tmp_path / "world"
    opening.world.save_pretrained(folder)
    (folder / SCENES).write_bytes(png_bytes(opening.scenes))
    process = subprocess.Popen(
        [sys.executable, str(CONF.parent / "play.py"), f"ckpt={folder}", "port=0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        url = next(word for line in process.stdout for word in line.split() if word.startswith("http://"))
        with joined(url) as player:
            player.frames(3)
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
    finally:
        if process.poll() is None:
            process.kill()
    assert process.stderr.read() == ""
