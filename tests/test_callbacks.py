import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, TensorDataset

from tinyworlds.callbacks import LogLines, Pictures, Throughput, progress_bar


class Line(LightningModule):
    """Fits a line, with noise in every step, and draws the points it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = torch.nn.Linear(1, 1)
        self.shown: list[torch.Tensor] = []

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        (x,) = batch
        loss = (self.slope(x) - 2 * x + 0.1 * torch.randn_like(x)).square().mean()
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("val_loss", self.slope(batch[0]).square().mean(), prog_bar=True)

    def pictures(self, batch: Any) -> dict[str, np.ndarray]:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.shown.append(batch[0])
        level = int(torch.randint(0, 256, ()))
        return {
            "still": np.full((4, 6, 3), level, np.uint8),
            "film": np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(6, 2).repeat(3, 3),
        }

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


Fit = Callable[..., tuple[Trainer, Line]]


@pytest.fixture
def fit(tmp_path: Path) -> Fit:
    def run(*callbacks: Callback, logger: Any = False, **options: Any) -> tuple[Trainer, Line]:
        torch.manual_seed(0)
        points = TensorDataset(torch.linspace(-1, 1, 32)[:, None])
        module = Line()
        trainer = Trainer(
            accelerator="cpu",
            default_root_dir=tmp_path,
            max_steps=options.pop("max_steps", 16),
            callbacks=list(callbacks),
            logger=logger,
            enable_progress_bar=any(isinstance(callback, LogLines) for callback in callbacks),
            enable_checkpointing=False,
            enable_model_summary=False,
            **options,
        )
        trainer.fit(module, DataLoader(points, batch_size=4, shuffle=True), DataLoader(points, batch_size=8))
        return trainer, module

    return run


def test_the_bar_is_for_terminals_only(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert isinstance(progress_bar(), RichProgressBar)
    monkeypatch.setattr("sys.stdout.isatty", lambda: False, raising=False)
    assert isinstance(progress_bar(), LogLines)


def test_lines_show_step_loss_speed_and_time_left(fit: Fit, capsys: pytest.CaptureFixture[str]):
    fit(LogLines(every_seconds=0))
    lines = capsys.readouterr().out.splitlines()
    number = r"\d[\d.e+-]*"
    steps = [line for line in lines if line.startswith("step")]
    for step, line in enumerate(steps, 1):
        assert re.fullmatch(rf"step {step}/16 · loss {number} · {number} steps/s · \d+:\d\d left", line)
    assert len(steps) == 16
    validations = [line for line in lines if line.startswith("validation")]
    assert [line.split(" · ")[0] for line in validations] == ["validation at step 8", "validation at step 16"]
    assert re.fullmatch(rf"validation at step 16 · val_loss {number}", validations[-1])
    assert re.fullmatch(rf"finished at step 16/16 · loss {number} · \d+:\d\d taken", lines[-1])
    assert "\r" not in "".join(lines)


def test_lines_come_no_faster_than_asked_and_not_at_all_when_disabled(fit: Fit, capsys: pytest.CaptureFixture[str]):
    fit(LogLines(every_seconds=3600))
    assert "\nstep" not in capsys.readouterr().out
    silent = LogLines(every_seconds=0)
    silent.disable()
    fit(silent)
    assert "step" not in capsys.readouterr().out


def test_steps_per_second_are_logged_once_per_interval(fit: Fit, tmp_path: Path):
    trainer, _ = fit(Throughput(every_n_steps=5), logger=CSVLogger(tmp_path), log_every_n_steps=5)
    table = np.genfromtxt(Path(trainer.logger.log_dir) / "metrics.csv", delimiter=",", names=True)
    speed = table["steps_per_second"]
    assert table["step"][np.isfinite(speed)].tolist() == [4, 9, 14]
    assert (speed[np.isfinite(speed)] > 0).all()
    assert set(table["step"][np.isfinite(table["loss"])]) == {4, 9, 14}, "on the rows of Lightning's own metrics"


def test_pictures_reach_files_and_tensorboard(fit: Fit, tmp_path: Path):
    trainer, _ = fit(Pictures(every_n_steps=1, fps=10), logger=TensorBoardLogger(tmp_path))
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert names == {"still-000008.png", "still-000016.png", "film-000008.gif", "film-000016.gif"}
    assert Image.open(tmp_path / "pictures" / "film-000016.gif").n_frames == 5

    board = EventAccumulator(trainer.logger.log_dir).Reload()
    assert set(board.Tags()["images"]) == {"still", "film"}
    assert [image.step for image in board.Images("film")] == [8, 16]
    film = board.Images("film")[-1].encoded_image_string
    assert film == (tmp_path / "pictures" / "film-000016.gif").read_bytes()


@pytest.mark.parametrize(("every_n_steps", "drawn"), [(8, [4, 12, 20, 24]), (12, [4, 16, 24]), (100, [4, 24])])
def test_pictures_are_drawn_when_due_and_at_the_end(fit: Fit, tmp_path: Path, every_n_steps, drawn):
    fit(
        Pictures(every_n_steps=every_n_steps, fps=10),
        max_steps=24,
        val_check_interval=4,
        limit_train_batches=4,
    )
    assert sorted(int(path.stem[-6:]) for path in (tmp_path / "pictures").glob("*.png")) == drawn


def test_pictures_are_comparable_and_change_no_training(fit: Fit, tmp_path: Path):
    _, with_pictures = fit(Pictures(every_n_steps=1, fps=10))
    assert len(with_pictures.shown) == 2
    for batch in with_pictures.shown:
        assert torch.equal(batch, torch.linspace(-1, 1, 32)[:8, None]), "always the first validation batch"
    stills = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "pictures").glob("*.png"))]
    np.testing.assert_array_equal(*stills)
    _, without = fit()
    assert torch.equal(with_pictures.slope.weight, without.slope.weight)
