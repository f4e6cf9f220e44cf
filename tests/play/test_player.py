import pytest

from tinyworlds.play import player as module
from tinyworlds.play.engine import Engine
from tinyworlds.play.loop import pictures
from tinyworlds.play.player import Player, Scene
from tinyworlds.play.protocol import Kind


class Game:
    """A connected player, for whom a step is computed when asked."""

    def __init__(self, opening) -> None:
        self.engine, self.recorded = Engine(opening.world.dynamics), []
        scenes = [Scene(picture=frames[-1], tokens=self.engine.tokenize(frames)) for frames in opening.scenes]
        self.player = Player(
            scenes, opening.settings, idle=0, context=4, deliver=lambda _, recorder: self.recorded.append(recorder)
        )
        self.outbox = self.player.connect()

    def compute(self, turn) -> None:
        (result,) = self.engine.run([turn.request])
        self.player.take(turn, result, pictures(result, self.engine.grid))

    def kinds(self) -> list[int]:
        """Of the binary messages since the last call, each of which is drawn."""
        found = []
        while not self.outbox.empty():
            message = self.outbox.get_nowait()
            if isinstance(message, bytes):
                found.append(message[0])
                self.player.ack(frame=int.from_bytes(message[4:8], "little"))
        return found


@pytest.fixture
def game(opening) -> Game:
    game = Game(opening)
    game.compute(game.player.turn())
    assert game.kinds() == [Kind.AGAIN]
    return game


def test_frames_are_due_as_often_as_is_set(game, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    game.player.settings(fps=2)
    for _ in range(2):  # the first is late
        game.compute(game.player.turn())
        game.kinds()
    assert game.player.due(now) == 0.5
    assert game.player.due(now + 0.4) == pytest.approx(0.1)
    assert game.player.due(now + 3) == 0


def test_what_was_imagined_ahead_is_not_shown_once_the_game_was_looked_at(game):
    game.player.settings(horizon=3)
    turn = game.player.turn()
    game.player.pause(on=True)
    game.player.inside(on=True)  # while the step is computed
    game.compute(turn)
    game.compute(game.player.turn())
    assert game.kinds() == [Kind.FRAME, Kind.INSIDE, Kind.AGAIN]
    game.player.step()
    turn = game.player.turn()
    assert turn is not None, "a new step, not a frame from before what was shown last"
    assert turn.request.step == 1


def test_the_next_recording_waits_until_the_last_is_written(game):
    game.player.record(on=True)
    game.compute(game.player.turn())
    game.player.record(on=False)
    assert len(game.recorded) == 1
    with pytest.raises(ValueError, match="still being written"):
        game.player.record(on=True)
    game.player.writing = False
    game.player.record(on=True)
    assert game.player.state()["recording"]
