import copy
import functools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from tinyworlds.command import CONF
from tinyworlds.plan import check, main, memory_of
from tinyworlds.rehearsal import Rehearsal

pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log")

Planner = Callable[..., dict[str, Any]]


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Planner:
    """Runs the command in an empty folder; gives what it wrote."""
    monkeypatch.chdir(tmp_path)

    def call(*options: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["plan", "out=plan.json", *options])
        main()
        written: dict[str, Any] = json.loads(Path("plan.json").read_text())
        return written

    return call


@functools.cache
def composed() -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("plan", [*SMALL, "gpus=2"])


SMALL = ("size=tiny", "frame_size=32", "data.batch_size=4", "data.clip_length=3")


def test_the_plan_is_of_what_would_be_trained(planned, capsys):
    made = planned(
        *SMALL, "optimizer=adamw", "trainer.max_steps=10", "peak_tflops=1", "utilization=0.5", "stage.num_blocks=1"
    )
    said = capsys.readouterr().out
    trained = {name: number for name, number in made["parameters"].items() if "tokenizer" not in name}
    assert sum(trained.values()) == made["trained"]
    assert f"{made['trained']:,}" in said
    tokens = 4 * 3 * 4 * 4
    assert (made["tokens_per_step"], made["tokens"]) == (tokens, 10 * tokens)
    assert made["seconds"]["computing"] == pytest.approx(made["flops"] / 0.5e12)
    assert made["seconds_per_step"] == pytest.approx(sum(made["seconds"].values()))
    assert made["days"] == pytest.approx(10 * made["seconds_per_step"] / 86400)
    assert made["memory"]["gradients"] == 4 * made["trained"]
    assert 2 * made["memory"]["gradients"] <= made["memory"]["optimizer"] < 2.01 * made["memory"]["gradients"]
    assert made["fits"]
    assert "\nfits into" in said


@pytest.mark.slow
def test_options_of_the_stage_are_not_those_of_its_tokenizers(planned):
    plain, deeper = (planned(*SMALL, *more)["parameters"] for more in ([], ["stage.num_blocks=3"]))
    assert deeper["transformer"] == pytest.approx(1.5 * plain["transformer"], rel=0.01)
    assert deeper["video_tokenizer"] == plain["video_tokenizer"]


@pytest.mark.slow
def test_gpus_share_what_is_trained_under_fsdp_and_only_the_clips_under_ddp(planned):
    alone = planned(*SMALL, "trainer=auto")
    ddp, fsdp = (planned(*SMALL, f"trainer={name}", "gpus=2", "data.batch_size=2") for name in ("ddp", "fsdp"))
    for part in ("gradients", "optimizer"):
        assert ddp["memory"][part] == alone["memory"][part]
        assert fsdp["memory"][part] == alone["memory"][part] / 2
    frozen = alone["memory"]["weights"] - alone["memory"]["gradients"]
    assert fsdp["memory"]["weights"] - frozen == alone["memory"]["gradients"] / 2
    for shared in (ddp, fsdp):
        assert shared["clips_per_gpu"] == 2
        assert shared["flops"] == pytest.approx(alone["flops"], rel=0.01)
        assert shared["memory"]["activations"] < 0.6 * alone["memory"]["activations"]
    # Each GPU moves all weights to compute with, and under DDP all to update them.
    times = [plan["seconds_per_step"] for plan in (fsdp, ddp, alone)]
    assert alone["seconds_per_step"] / 2 < times[0] < times[1] < times[2]


@pytest.mark.slow
def test_the_batch_size_is_that_of_each_gpu_as_it_is_of_each_process_in_training(planned):
    one, three = (planned(*SMALL, "trainer.strategy=ddp", "trainer=auto", f"gpus={gpus}") for gpus in (1, 3))
    assert one["clips_per_gpu"] == three["clips_per_gpu"] == 4
    assert three["tokens_per_step"] == 3 * one["tokens_per_step"]
    assert three["flops"] == 3 * one["flops"]
    assert three["at_most"] == one["at_most"]


@pytest.mark.slow
def test_what_does_not_fit_is_said_and_what_would(planned, capsys):
    asked = (*SMALL, "trainer=ddp", "gpus=2", "reserve=0", "data.batch_size=64", "stage.num_blocks=6")
    needed = planned(*asked)["at_most"]
    enough = f"gpu_memory={1.01 * needed / 2**30}"
    assert planned(*asked, enough)["fits"]
    capsys.readouterr()
    assert not planned(*asked, "data.batch_size=128", enough)["fits"]
    advice = [line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.startswith("  try ")]
    assert advice == [["activation_checkpointing=true"], ["data.batch_size=43", "trainer.accumulate_grad_batches=3"]]
    for options in advice:
        assert planned(*asked, "data.batch_size=128", enough, *options)["fits"]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("gpus", 0, "gpus=0"),
        ("trainer.strategy", "auto", "gpus=2: .* trainer=ddp or trainer=fsdp"),
        ("trainer.strategy", "deepspeed", "trainer.strategy=deepspeed: trainer=ddp and trainer=fsdp can be planned"),
        ("device", "abacus", "device=abacus is none of h200, h100"),
        ("utilization", 0, "utilization=0"),
        ("reserve", 1, "reserve=1"),
        ("tokens", -5, "tokens=-5"),
        ("peak_tflops", "no", "peak_tflops=no"),
        ("bandwidth", 0, "bandwidth=0"),
        ("gpu_memory", 0, "gpu_memory=0"),
        ("data.batch_size", 0.5, "data.batch_size=0.5"),
        ("trainer.precision", 16, "trainer.precision=16: .* bf16-mixed"),
        ("trainer.max_steps", "many", "trainer.max_steps=many"),
        ("trainer.accumulate_grad_batches", 0, "trainer.accumulate_grad_batches=0"),
    ],
)
def test_an_impossible_value_is_named(key, value, words):
    config = copy.deepcopy(composed())
    check(config)
    OmegaConf.update(config, key, value)
    with pytest.raises(ValueError, match=words):
        check(config)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("stage=all", "stage=all"),
        ("stage.num_heads=5", "num_heads=5"),
    ],
)
def test_a_mistake_is_one_sentence(planned, option, words, capsys):
    with pytest.raises(SystemExit):
        planned(*SMALL, *option.split())
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    assert len(error.splitlines()) == 1
    assert not Path("plan.json").exists()


def test_an_unknown_size_is_told_from_the_others(planned, capsys):
    with pytest.raises(SystemExit):
        planned("size=giant")
    assert re.match("error: size=giant: .*1b, 7b, base", capsys.readouterr().err)


def test_half_the_bandwidth_doubles_the_time_of_moving_alone(planned):
    one, half, device = (planned(*SMALL, *more)["seconds"] for more in (["bandwidth=1"], ["bandwidth=0.5"], []))
    assert half == pytest.approx({"computing": one["computing"], "moving": 2 * one["moving"]})
    assert device["moving"] == pytest.approx(one["moving"] / 3.35)


@pytest.mark.slow
def test_accumulated_batches_are_moved_each_and_the_update_once(planned):
    once, twice = (planned(*SMALL, f"trainer.accumulate_grad_batches={n}")["seconds"] for n in (1, 2))
    assert twice["computing"] == pytest.approx(2 * once["computing"])
    assert once["moving"] < twice["moving"] < 2 * once["moving"]


PARTS = st.integers(0, 10**12)


@given(trained=st.integers(1, 10**12), frozen=PARTS, then=PARTS, shards=st.integers(2, 4096), blocks=st.integers(1, 99))
def test_more_gpus_never_need_more_memory_each(trained, frozen, then, shards, blocks):
    rehearsal = Rehearsal(
        flops=1,
        traffic=1,
        update=1,
        weights=trained + frozen,
        gradients=trained,
        optimizer=2 * trained,
        then={"activations": then, "gradients": 0, "copies": 0},
    )
    fewer, more = (memory_of(rehearsal, shards=n, blocks=[trained // blocks] * blocks) for n in (shards, 2 * shards))
    assert more[1] <= fewer[1]
    assert all(more[0][part] <= fewer[0][part] for part in fewer[0])
    assert max(more[0]["weights"], more[0]["gradients"]) <= more[1] <= sum(more[0].values())


@pytest.mark.slow
def test_seven_billion_parameters_are_planned_without_memory(planned):
    torch.set_num_threads(1)
    made = planned("size=7b", "gpus=64", "activation_checkpointing=true", "tokens=9.42e11", "device=a100")
    assert made["trained"] == pytest.approx(7e9, rel=0.1)
    assert made["fits"]
    # Six operations a parameter and token make an update; more where clean frames come along, and what is recomputed.
    assert 6 < made["flops"] / made["trained"] / made["tokens_per_step"] < 6 * 2 * 4 / 3 + 2
    assert 10 < made["days"] < 1000


@pytest.mark.slow
@pytest.mark.parametrize("options", [["size=small"], ["size=base"], ["size=1b", "gpus=32"]])
def test_smaller_sizes_fit_where_they_are_said_to(planned, options):
    assert planned(*options, "device=h100")["fits"]
