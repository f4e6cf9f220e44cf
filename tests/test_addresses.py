from pathlib import Path

import pytest

from tinyworlds import World
from tinyworlds.addresses import beside, split_address


@pytest.mark.parametrize("where", ["hf://", "hf://me", "hf://me/a/b", "hf://../world"])
def test_an_address_that_is_none_is_refused(where):
    with pytest.raises(ValueError, match="give user/name"):
        World.load(where)


def test_what_is_made_of_a_world_goes_beside_it(tmp_path):
    folder = tmp_path / "world"
    folder.mkdir()
    assert beside(folder, "play", runs_dir="runs") == folder / "play"
    assert beside(tmp_path / "run" / "best.ckpt", "play", runs_dir="runs") == tmp_path / "run" / "play"
    assert beside("hf://me/world@v1", "play", runs_dir="runs") == Path("runs/hub/me/world/play")
    assert split_address("hf://me/world@v1") == ("me/world", "v1")
