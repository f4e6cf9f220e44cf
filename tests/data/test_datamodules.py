import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning import LightningModule, Trainer

from tinyworlds.command import CONF, build
from tinyworlds.data.clip_datamodule import ClipDataModule
from tinyworlds.data.datamodules import Video
from tinyworlds.data.store import FrameStore, StoreWriter

from .conftest import WriteStore, extraction, numbered_frames, numbers_of

DATASETS = sorted({path.stem for path in (CONF / "data").glob("*.yaml")} - {"base"})
OPTIONS: dict[str, Any] = {
    "name": "test",
    "clip_length": 4,
    "clip_stride": 1,
    "batch_size": 8,
    "num_workers": 0,
    "cache_tokens": False,
    "val_fraction": 0.2,
    "seed": 0,
}


def clips_of(path: Path, **options: Any) -> ClipDataModule:
    data = ClipDataModule(**OPTIONS | {"path": str(path)} | options)
    data.prepare_data()
    data.setup()
    return data


def configured(dataset: str, *overrides: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [f"data={dataset}", *overrides]).data


def numbers(batches: Any) -> list[int]:
    return sorted({int(number) for batch in batches for number in numbers_of(batch.numpy()).ravel()})


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_dataset_composes_and_instantiates(dataset: str, tmp_path: Path) -> None:
    path = ["data.path=game.mp4"] if dataset == "video" else []
    data = build(configured(dataset, f"data_dir={tmp_path}", "data.clip_length=5", "seed=7", *path))
    assert (data.name, data.clip_length, data.seed) == (dataset, 5, 7)
    if dataset != "video":
        assert data.path == tmp_path / f"{dataset}.h5"
    assert list(tmp_path.iterdir()) == []  # nothing is made before it is needed


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(ValueError, match="clip_lenght"):
        build(configured("pong", "+data.clip_lenght=5"))


@pytest.mark.parametrize(
    ("option", "value"),
    [("clip_length", 0), ("clip_stride", 0), ("batch_size", 0), ("num_workers", -1), ("val_fraction", 1.0)],
)
def test_an_impossible_value_is_refused_before_data_is_read(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"data.{option}={value}"):
        ClipDataModule(**OPTIONS | {"path": "none.h5", option: value})


def test_batches_are_raw_and_normalized_later(write_store: WriteStore) -> None:
    data = clips_of(write_store(50, 50))
    batch = next(iter(data.train_dataloader()))
    assert batch.shape == (8, 4, 8, 6, 3)
    assert batch.dtype == torch.uint8
    normalized = data.on_after_batch_transfer(batch, 0)
    assert normalized.shape == (8, 4, 3, 8, 6)
    assert (data.frame_size, data.fps) == ((8, 6), 5.0)


def test_training_and_validation_never_share_a_frame(write_store: WriteStore) -> None:
    data = clips_of(write_store(*[30] * 7))
    train, val = numbers(data.train_dataloader()), numbers(data.val_dataloader())
    assert not set(train) & set(val)
    assert val == list(range(90, 120))


def test_no_clip_crosses_the_beginning_of_an_episode(write_store: WriteStore) -> None:
    data = clips_of(write_store(9, 4, 17, 8), batch_size=1)
    for batch in [*data.train_dataloader(), *data.val_dataloader()]:
        first, last = numbers_of(batch.numpy())[0, [0, -1]]
        assert np.searchsorted([9, 13, 30], first, "right") == np.searchsorted([9, 13, 30], last, "right")


def test_stages_of_other_clip_lengths_hold_out_the_same_frames(write_store: WriteStore) -> None:
    path = write_store(200, action_names=None)
    held_out = [numbers(clips_of(path, clip_length=length).val_dataloader()) for length in (2, 4, 16)]
    assert held_out[0] == held_out[1] == held_out[2]


def test_workers_give_the_same_batches(write_store: WriteStore, tmp_path: Path) -> None:
    path = tmp_path / "compressed.h5"
    with h5py.File(write_store(40, 40)) as raw, h5py.File(path, "w") as file:
        file.create_dataset("frames", data=raw["frames"][:], compression="lzf")
    alone, helped = clips_of(path), clips_of(path, num_workers=2)
    assert (alone.train_dataloader().num_workers, helped.train_dataloader().num_workers) == (0, 2)
    next(iter(alone.train_dataloader()))  # a handle is open when the workers are forked
    helped.store.read(0, 1)
    for ours, theirs in zip(alone.train_dataloader(), helped.train_dataloader(), strict=True):
        assert torch.equal(ours, theirs)


def test_frames_stored_as_they_are_need_no_workers(write_store: WriteStore) -> None:
    assert clips_of(write_store(40, 40), num_workers=2).train_dataloader().num_workers == 0


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_million_frames_are_opened_in_little_memory(tmp_path: Path, on_disk: bool) -> None:
    """In holes of a file, which take no room: as a store that was written whole, and as one that never was."""
    path = tmp_path / "million.h5"
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_chunk((64, 64, 64, 3))
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY if on_disk else h5py.h5d.ALLOC_TIME_INCR)
    with h5py.File(path, "w") as file:
        space = h5py.h5s.create_simple((1_000_000, 64, 64, 3))
        h5py.h5d.create(file.id, b"frames", h5py.h5t.NATIVE_UINT8, space, layout)
        file["episode_starts"] = np.arange(0, 1_000_000, 500)
    tracemalloc.start()
    data = clips_of(path, clip_length=16)
    batch = next(iter(data.train_dataloader()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (data.store.mapped, batch.shape, len(data.train_clips)) == (on_disk, (8, 16, 64, 64, 3), 1600 * 485)
    assert peak < 60e6


class Listener(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[str, list[torch.Tensor]] = {"train": [], "val": []}

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        self.seen["train"].append(batch)
        return self.weight * batch.mean()

    def validation_step(self, batch: torch.Tensor) -> None:
        self.seen["val"].append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_trainer_shuffles_anew_each_epoch_and_validates_in_one_order(write_store: WriteStore) -> None:
    listener = Listener()
    trainer = Trainer(
        max_epochs=2,
        limit_train_batches=3,
        limit_val_batches=2,
        num_sanity_val_steps=0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(listener, datamodule=ClipDataModule(**OPTIONS | {"path": str(write_store(60, 60))}))
    train, val = listener.seen["train"], listener.seen["val"]
    assert train[0].shape == (8, 4, 3, 8, 6)
    assert train[0].dtype == torch.float32
    assert not torch.equal(train[0], train[3])
    assert torch.equal(val[0], val[2])
    assert torch.equal(val[1], val[3])


def test_held_out_clips_come_from_held_out_episodes(write_store: WriteStore) -> None:
    data = clips_of(write_store(*[30] * 10))
    clips = data.held_out_clips(count=6, length=20, seed=1)
    assert clips.shape == (6, 20, 8, 6, 3)
    assert set(numbers_of(clips).ravel()) <= set(numbers(data.val_dataloader()))
    assert len({number // 30 for number in numbers_of(clips)[:, 0]}) == 2
    np.testing.assert_array_equal(clips, data.held_out_clips(count=6, length=20, seed=1))
    with pytest.raises(ValueError, match="no held-out episode has 31 frames, the longest has 30"):
        data.held_out_clips(count=1, length=31, seed=1)


@pytest.mark.parametrize(
    ("lengths", "split"),
    [((3, 3), "training"), ((1,), "training"), ((3, 20), "training"), ((30,), "validation")],
)
def test_too_few_frames_for_one_clip_are_refused(write_store: WriteStore, lengths: tuple[int], split: str) -> None:
    with pytest.raises(ValueError, match=rf"frames\.h5: too few frames for one {split} clip of data.clip_length=4"):
        clips_of(write_store(*lengths), val_fraction=0.1)


def test_few_clips_still_make_a_batch(write_store: WriteStore) -> None:
    data = clips_of(write_store(5, 5), batch_size=100)
    assert [len(batch) for batch in data.train_dataloader()] == [2]


def test_a_missing_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.h5"):
        clips_of(tmp_path / "none.h5")


def test_a_game_is_recorded_on_first_use_and_then_kept(tmp_path: Path) -> None:
    pytest.importorskip("ale_py")
    overrides = [f"data_dir={tmp_path}", "data.recording.frames=120", "data.recording.max_episode_steps=40"]
    data = build(configured("atari_pong", *overrides))
    data.prepare_data()
    made = data.path.stat().st_mtime_ns
    data.prepare_data()
    data.setup()
    assert data.path.stat().st_mtime_ns == made
    assert (data.frame_size, data.store.num_frames) == ((64, 64), 120)

    other = build(configured("atari_pong", *overrides, "data.recording.seed=5"))
    other.prepare_data()
    with pytest.raises(ValueError, match=r"atari_pong\.h5 was made with seed=0.*asks for seed=5"):
        other.setup()


def test_a_family_has_its_own_games_alone(tmp_path: Path) -> None:
    other = "data.recording.env=VizdoomBasic-v1"
    with pytest.raises(ValueError, match="env=VizdoomBasic-v1 is none of Atari's games, whose names begin with ALE/"):
        build(configured("atari_pong", other))
    any_game = "data._target_=tinyworlds.data.datamodules.RecordedGame"
    assert build(configured("atari_pong", other, any_game)).recording.env == "VizdoomBasic-v1"


def test_a_store_from_before_a_setting_was_known_is_still_the_datasets(tmp_path: Path) -> None:
    data = build(configured("atari_pong", f"data_dir={tmp_path}"))
    settings = {key: value for key, value in data.recording.settings().items() if key not in ("weights", "skip_first")}
    with StoreWriter(data.path, height=64, width=64, source="ALE/Pong-v5", settings=settings) as writer:
        writer.append(np.zeros((100, 64, 64, 3), np.uint8))
    data.setup()
    assert data.store.num_frames == 100


def test_a_public_file_that_is_there_is_not_downloaded(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "zelda.h5", height=64, width=64, source="by hand") as writer:
        writer.append(np.zeros((100, 64, 64, 3), np.uint8))
    data = build(configured("zelda", f"data_dir={tmp_path}"))
    data.prepare_data()
    data.setup()
    assert data.store.num_frames == 100


def test_a_video_is_extracted_on_first_use(video: Path, tmp_path: Path) -> None:
    path = tmp_path / "game.mp4"
    path.write_bytes(video.read_bytes())
    options = OPTIONS | {"path": str(path)}
    data = Video(copies="copies", extraction=extraction(fps=15), **options)
    data.prepare_data()
    data.setup()
    assert (data.path, data.store.num_frames, data.fps) == (tmp_path / "game.h5", 45, 15)

    with pytest.raises(ValueError, match=r"game\.h5 was made with fps=15.*asks for fps=30"):
        Video(copies="copies", extraction=extraction(fps=30), **options).setup()


def test_a_ready_store_serves_as_a_video(write_store: WriteStore) -> None:
    data = Video(copies="copies", extraction=extraction(), **OPTIONS | {"path": str(write_store(40))})
    data.prepare_data()
    data.setup()
    assert data.store.num_frames == 40


def test_a_store_made_elsewhere_is_not_taken_for_the_videos(write_store: WriteStore, tmp_path: Path) -> None:
    write_store(40, name="game.h5")
    (tmp_path / "game.mp4").touch()
    data = Video(copies="copies", extraction=extraction(), **OPTIONS | {"path": str(tmp_path / "game.mp4")})
    data.prepare_data()
    with pytest.raises(ValueError, match=r"game\.h5 does not say how it was made"):
        data.setup()
    with FrameStore(tmp_path / "game.h5") as store:
        np.testing.assert_array_equal(store.read(0, 40), numbered_frames(range(40)))


def test_a_dataset_that_makes_its_one_store_takes_no_pattern(tmp_path: Path) -> None:
    for dataset in ("zelda", "atari_pong"):
        data = build(configured(dataset, f"data_dir={tmp_path}", f"data.path='{tmp_path}/*.h5'"))
        with pytest.raises(ValueError, match=rf"data={dataset} makes one store; many .* are read with data=video"):
            data.prepare_data()
    assert list(tmp_path.iterdir()) == []
