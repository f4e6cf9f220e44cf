"""Every option in conf/ composes, is instantiated, and changes something."""

import copy
import functools
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from tinyworlds.command import CONF, build
from tinyworlds.models import STAGES, ActionTokenizer, Stage, VideoTokenizer
from tinyworlds.models.description import check_limits
from tinyworlds.nn.attention import Attention

from .composing import KNOWN, built, composed, dataset

README = (CONF.parent / "README.md").read_text()
DATASETS = sorted(path.stem for path in (CONF / "data").glob("*.yaml") if path.stem != "base")
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
SIZES = ("tiny", "small", "base", "1b", "7b")


@pytest.mark.parametrize("data", DATASETS)
def test_every_dataset_is_built(data):
    config = composed(f"data={data}", "data.path=film.h5" if data == "video" else "seed=1")
    module = build(config.data)
    assert module.name == data
    assert str(module.path).endswith(".h5")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_builds_every_stage_with_its_optimizer(experiment, stage):
    model = built(stage, f"experiment={experiment}")
    config = composed(f"stage={stage}", f"experiment={experiment}")
    optimizer = build(config.optimizer)(model)
    schedule = build(config.lr_schedule)(optimizer, total_steps=config.trainer.max_steps)
    assert schedule.get_last_lr()[-1] == pytest.approx(
        config.optimizer.lr / round(config.lr_schedule.warmup * config.trainer.max_steps)
    )


def test_the_reference_is_the_published_setting():
    """The public project's README and configs."""
    published = {
        "video_tokenizer": (4, 1e-3, 350, 40_000),
        "action_tokenizer": (2, 1e-4, 350, 10_000),
        "dynamics": (8, 1e-2, 500, 300_000),
    }
    for stage, (blocks, lr, batch, steps) in published.items():
        config = composed(f"stage={stage}", "experiment=reference")
        assert (config.optimizer.lr, config.data.batch_size, config.trainer.max_steps) == (lr, batch, steps)
        assert config.data.clip_length == 4
        assert config.optimizer.betas == [0.9, 0.999]
        assert config.optimizer.weight_decay == 0.01
        assert (config.lr_schedule.warmup, config.lr_schedule.final) == (0.05, 0.01)
        assert config.lr_schedule._target_ == "tinyworlds.optim.cosine"
        assert config.trainer.gradient_clip_val == 1.0
        options = config.stage.encoder if stage == "action_tokenizer" else config.stage
        assert (options.embed_dim, options.num_heads, options.hidden_dim, options.num_blocks) == (
            32,
            8,
            128,
            blocks,
        )
        assert options.norm == "post"
    tokens = composed("stage=video_tokenizer", "experiment=reference").stage
    assert (tokens.patch_size, tokens.latent_dim, tokens.num_bins) == (4, 5, 4)
    actions = composed("stage=action_tokenizer", "experiment=reference").stage
    assert actions.n_actions == 4
    assert actions.decoder.mask_ratio == 1.0


@pytest.mark.parametrize(("experiment", "schedule"), [("laptop", "wsd"), ("desktop", "cosine")])
def test_what_the_ablations_chose_is_in_the_recipes(experiment, schedule):
    for stage in STAGES:
        wanted = schedule if stage == "video_tokenizer" else "cosine"
        assert composed(f"stage={stage}", f"experiment={experiment}").lr_schedule._target_.endswith(f".{wanted}")
    assert composed("stage=dynamics", f"experiment={experiment}").stage.decoding.top_p == 0.9


@pytest.mark.parametrize("choice", ["optimizer=muon", "lr_schedule=wsd", "lr_schedule=constant"])
def test_what_every_stage_learns_by_can_be_chosen_for_all_of_them(choice):
    group, name = choice.split("=")
    assert composed("stage=all", choice)[group]._target_.endswith(f".{name}")


@functools.cache
def sized(size: str, stage: str) -> tuple[Stage, DictConfig]:
    """A stage on the meta device, without memory, and its config."""
    config = composed(f"stage={stage}", f"size={size}")
    known: dict[str, object] = dict(KNOWN)
    if stage == "dynamics":
        known = {kind.name: copy.deepcopy(sized(size, kind.name)[0]) for kind in (VideoTokenizer, ActionTokenizer)}
    with torch.device("meta"):
        return build(config.stage, dataset=dataset(config), **known), config


def trained_parameters(stage: Stage) -> int:
    return sum(parameter.numel() for parameter in stage.parameters() if parameter.requires_grad)


def test_there_are_no_other_sizes():
    assert {path.stem for path in (CONF / "models/size").glob("*.yaml")} == {*SIZES, "experiment"}


@pytest.mark.parametrize("stage", STAGES)
def test_every_size_of_a_stage_is_larger_than_the_one_before_and_can_be_trained_and_opened_again(stage):
    parameters = []
    for size in SIZES:
        model, config = sized(size, stage)
        check_limits(model)
        build(config.lr_schedule)(build(config.optimizer)(model), total_steps=config.trainer.max_steps)
        parameters.append(trained_parameters(model))
        heads = [part.head_dim for part in model.modules() if isinstance(part, Attention)]
        assert min(heads, default=64) >= (64 if size in ("base", "1b", "7b") else 16)
    assert parameters == sorted(set(parameters))


@pytest.mark.parametrize(("size", "parameters"), [("1b", 1e9), ("7b", 7e9)])
def test_a_size_that_is_a_number_is_that_of_the_dynamics_parameters(size, parameters):
    assert trained_parameters(sized(size, "dynamics")[0]) == pytest.approx(parameters, rel=0.1)


@pytest.mark.parametrize("stage", STAGES)
def test_a_size_says_how_large_the_models_are_and_leaves_the_rest_to_the_experiment(stage):
    plain, base = (composed(f"stage={stage}", "experiment=desktop", *size) for size in ([], ["size=base"]))
    changed = {"embed_dim", "num_heads", "hidden_dim", "num_blocks", "latent_dim", "num_bins", "encoder", "decoder"}
    for key in set(plain.stage) - changed:
        assert plain.stage[key] == base.stage[key]
    assert plain.trainer == base.trainer
    assert composed(f"stage={stage}", "experiment=desktop", "size=experiment") == plain


STARTED_BY = re.compile(
    r"^(?:torchrun .*?|sbatch .*?|(?:\w+=\S+ )+)(?:train\.py|docs/cluster/train\.sbatch|docs/cluster/torchrun\.sh)",
    re.M,
)
SHOWN = re.compile(r"^(?:\.venv/bin/)?python (train|play|-m tinyworlds[.\w]*)(?:\.py)? ?(.*)$", re.M)


def commands(page: Path) -> list[tuple[str, str]]:
    """Ours, on the lines of a page, with their options; those that a launcher starts too."""
    lines = STARTED_BY.sub("python train.py", page.read_text().replace("\\\n", ""))
    return SHOWN.findall(lines)


PAGES = (CONF.parent / "README.md", *sorted(CONF.parent.glob("docs/*.md")))
COMMANDS = [(page.name, *command) for page in PAGES for command in commands(page)]


def test_the_readme_is_short_and_its_links_lead_somewhere():
    assert len(README.splitlines()) < 200
    for page in PAGES:
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_readme_shows_commands():
    assert {name for page, name, _ in COMMANDS if page == "README.md"} >= {
        "train",
        "play",
        "-m tinyworlds.data.record",
        "-m tinyworlds.data.video",
    }


def first_of_sweep(word: str) -> str:
    """An override with the first of its values, where it has several."""
    (override,) = OverridesParser.create().parse_overrides([word])
    if not override.is_sweep_override():
        return word
    value = override.value().start if override.is_interval_sweep() else next(override.sweep_iterator())
    return f"{override.get_key_element()}={value}"


@pytest.mark.parametrize(("page", "command", "options"), COMMANDS)
def test_every_command_that_is_shown_composes(page, command, options):
    name = command.rpartition(".")[2]
    words = shlex.split(re.sub("<.*?>", "it", options), comments=True)
    words = ["to_public=true" if word == "--to-public" else word for word in words if word != "-m"]
    words = [word if "=" in word else f"verb={word}" for word in words]
    words = [re.sub(r"=(\d+(?:,\d+)+)$", r"=[\1]", word) if name == "play" else first_of_sweep(word) for word in words]
    OmegaConf.to_container(composed(*words, name=name))


def test_what_starts_many_processes_is_shell():
    scripts = [*CONF.parent.glob("docs/cluster/*")]
    assert {script.name for script in scripts} == {"train.sbatch", "torchrun.sh"}
    for script in scripts:
        subprocess.run(["bash", "-n", script], check=True)


def test_the_readmes_new_dataset_is_made_of_what_there_is():
    blocks = re.findall(r"```yaml\n(.*?)```", README, re.S)
    recording, data = (OmegaConf.create(block) for block in blocks)
    game = OmegaConf.load(CONF / "data/atari_pong.yaml")
    assert set(data) == set(game)
    assert [str(entry).replace("space_invaders", "atari_pong") for entry in data.defaults] == [
        str(e) for e in game.defaults
    ]
    assert set(recording) - {"defaults"} <= set(OmegaConf.load(CONF / "recording/default.yaml"))


def test_make_runs_what_there_is():
    makefile = (CONF.parent / "Makefile").read_text()
    for module in re.findall(r"-m (tinyworlds[\w.]+)", makefile):
        assert Path(CONF.parent, "src", *module.split(".")).with_suffix(".py").is_file()
