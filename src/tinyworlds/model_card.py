"""The model card of a world: what a stranger reads before downloading it."""

from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub import ModelCardData

from tinyworlds.markdown import inline, shell
from tinyworlds.models import Dynamics

SETTINGS = ("decoding", "evaluation")
"""Sections of the metrics that say how the others were measured."""
LARGEST = 1e300
"""No figure is larger, and many a whole number that is has no place among floats."""
SOURCE = "https://github.com/AlmondGod/tinyworlds"


def world_card(
    dynamics: Dynamics,
    *,
    metrics: Mapping[str, Any] | None,
    preview: str | None,
    scenes: bool,
    command: str | None,
    repo: str,
    license: str,
) -> str:
    """Markdown with the Hub's metadata in front.

    `metrics` are those of the evaluation, `preview` the name of a film in the repository, `command` the one
    that trained the world; each None where there is none. `scenes`: whether frames to
    begin from come along. `license` is one of the Hub's names for licences.
    """
    about = ModelCardData(
        license=license,
        library_name="tinyworlds",
        tags=["tinyworlds", "world-model", "video", "maskgit", "genie"],
        model_name=repo.rpartition("/")[2],
    )
    parts = [f"---\n{about.to_yaml()}\n---\n", f"# {repo.rpartition('/')[2]}\n", *_introduction(dynamics, preview)]
    parts += ["## Play\n", f"```sh\n{_play(repo, scenes)}\n```\n", "```python\n" + _python(repo) + "\n```\n"]
    parts += ["## Actions\n", *_actions(dynamics, metrics)]
    parts += ["## Evaluation\n", *_evaluation(metrics)]
    parts += ["## Training\n", shell(command) or "The command was not kept.\n"]
    return "\n".join(parts)


def _introduction(dynamics: Dynamics, preview: str | None) -> Iterator[str]:
    height, width = dynamics.frame_size
    parameters = sum(parameter.numel() for parameter in dynamics.parameters())
    yield (
        "A world model that learned a game from video of it, with no record of the buttons pressed, and that can be "
        f"played with actions of your own. Made with TinyWorlds, after [{SOURCE.partition('//')[2]}]({SOURCE}) and "
        "[Genie](https://arxiv.org/abs/2402.15391).\n"
    )
    if preview:
        yield f"![From one prompt, each action held]({preview})\n"
    yield (
        f"| | |\n|---|---|\n| game | {inline(dynamics.dataset['name'])} |\n| frames | {height} x {width} |\n"
        f"| actions | {dynamics.action_tokenizer.n_actions} |\n| frames seen at a time | {dynamics.context_length} |\n"
        f"| tokens a frame | {dynamics.video_tokenizer.num_patches} of {dynamics.video_tokenizer.vocabulary} |\n"
        f"| parameters, both tokenizers included | {parameters:,} |\n"
        f"| dynamics | {', '.join(_choices(dynamics))} |\n"
    )


def _choices(dynamics: Dynamics) -> Iterator[str]:
    """Of what kind the transformer of the dynamics is."""
    for key in ("norm", "qk_norm", "positions", "conditioning"):
        yield f"`{key}={str(dynamics.hparams[key]).lower()}`"
    yield f"`feed_forward={dynamics.hparams['feed_forward']['name']}`"


def _play(repo: str, scenes: bool) -> str:
    return f"python play.py ckpt=hf://{repo}" + ("" if scenes else " store=FRAMES.h5")


def _python(repo: str) -> str:
    return (
        "from tinyworlds import World\n\n"
        f'world = World.from_pretrained("{repo}")\n'
        "frame = world.reset(prompt)  # uint8 (T, H, W, 3)\n"
        "frame = world.step(0)"
    )


def _actions(dynamics: Dynamics, metrics: Mapping[str, Any] | None) -> Iterator[str]:
    count = dynamics.action_tokenizer.n_actions
    names = dict(_values(metrics or {})).get("actions.names")
    if not isinstance(names, list) or len(names) != count:
        yield f"Numbered 0 to {count - 1}; what they mean was not measured.\n"
        return
    yield "What each code was found to stand for, against the true buttons of held-out play:\n"
    yield "| code | action |\n|---|---|\n" + "".join(
        f"| {code} | {inline(name or 'no clear one')} |\n" for code, name in enumerate(names)
    )


def _evaluation(metrics: Mapping[str, Any] | None) -> Iterator[str]:
    metrics = metrics or {}
    figures = {
        name: value
        for name, value in _values({name: found for name, found in metrics.items() if name not in SETTINGS})
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
    }
    if not figures:
        yield "It was not evaluated.\n"
        return
    settings = _values({name: metrics[name] for name in SETTINGS if name in metrics})
    options = ", ".join(inline(f"{name.partition('.')[2]}={value}") for name, value in settings)
    yield f"On held-out episodes, by `python -m tinyworlds.evaluate`{options and f' with {options}'}:\n"
    yield "| metric | |\n|---|---|\n" + "".join(
        f"| {inline(name)} | {value:.4g} |\n" for name, value in figures.items()
    )


def _values(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What is in a nested mapping, named as in ``actions.nmi``."""
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _values(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
