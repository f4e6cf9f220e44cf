"""What Hydra finds wrong with a command line, in one sentence that names the option and what to do."""

import difflib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

SHARED = {("data", "base"), ("lr_schedule", "base"), ("trainer", "base")}
"""Files of a group that its choices are made of, and that are none."""
PLUGIN = re.compile(r"hydra/(?:launcher|sweeper)/|hydra_plugins\.")
EXTRA = "a plugin that is not installed: get it with `pip install -e '.[sweeps]'`"


def explained(error: Exception, *, conf: Path, config_name: str, overrides: list[str]) -> str:
    """What is wrong with the `overrides` of ``conf/<config_name>.yaml``, of which Hydra said `error`."""
    said = str(error)
    if isinstance(error, MissingConfigException):
        return _no_such_choice(error)
    if isinstance(error, OverrideParseException):
        quoted = "give values with spaces, commas or brackets in two pairs of quotes, as 'option=\"a, b\"'"
        return f"{error.override} can't be read as option=value; {quoted}"
    if found := re.match(r"Ambiguous value for argument '(.*?)=(.*)'", said):
        option, values = found.groups()
        return f"{option}={values} is several values: try each of them with -m, or give a list as {option}=[{values}]"
    if found := re.match(r"Sweep parameters '(.*)' requires --multirun", said):
        return f"{found[1]} is several values: try each of them with -m"
    if found := re.match(r"Could not append to config\. An item is already at '(.*)'", said):
        return f"{found[1]} is an option already: leave out the + before it"
    if found := re.match(r"Could not (?:override|delete from config\.) '(.*?)'", said):
        others = [o for o in overrides if o.partition("=")[0].lstrip("+~") != found[1]]
        return _no_such_option(found[1], _composed(conf, config_name, others))
    if listed := next((o for o in overrides if o.startswith("stage=[")), None):
        return f"{listed}: a stage is one of them; leave it out to train all three, or call once for each"
    if PLUGIN.search(said) and "locat" in said:
        return f"{next((o for o in overrides if o.startswith('hydra/')), 'this')} needs {EXTRA}"
    if isinstance(error, OSError):
        where = f"{error.filename}: {error.strerror}"
        return f"the folder of the run can't be made, {where}: choose another place with runs_dir="
    return plain(error)


def plain(error: BaseException) -> str:
    """What an exception says, on one line; of a mistake that OmegaConf found, the key and no notes for programmers."""
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is missing: give it a value, as {error.full_key}=…"
    if isinstance(error, OmegaConfBaseException):
        said = str(error).splitlines()[0]
        return f"{error.full_key}: {said}" if error.full_key else said
    said = " ".join(str(error).split()) or type(error).__name__
    cause = error.__cause__ if isinstance(error, HydraException) else None
    return said if cause is None else f"{said}: {plain(cause)}"


def meant(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """``, did you mean …?``, where one of those that are known is near; else nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f", did you mean {prefix}{near[0]}?" if near else ""


def _no_such_choice(error: MissingConfigException) -> str:
    """Which choices a group has; `error` is about one that it has not."""
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    if not group:
        return f"there is no {name}.yaml to compose a config from"
    if PLUGIN.match(f"{group}/"):
        return f"{group}={name} is no choice that there is, or {EXTRA}"
    choices = sorted(option for option in error.options or () if (group, option) not in SHARED)
    return f"{group}={name}: there is no such choice{meant(name, choices)}; choose one of {', '.join(choices)}"


def _no_such_option(option: str, config: DictConfig) -> str:
    """That `config` has no such option, and which may be meant, or else which there are beside it."""
    parent, _, name = option.replace("/", ".").rpartition(".")
    groups = config.hydra.runtime.choices if "hydra" in config else {}
    beside = OmegaConf.select(config, parent) if parent else config
    if parent in groups and beside is None:
        return f"{option}: {parent}={groups[parent]} has no options, give them with another {parent}="
    if parent and isinstance(beside, DictConfig):
        names = sorted(key for key in map(str, beside) if not key.startswith("_"))
        guess = meant(name, names, prefix=f"{parent}.") or f"; {parent} has {', '.join(names)}"
        return f"{option}: there is no such option{guess}"
    known = [key for key in _keys(config) if not key.startswith("hydra")]
    return f"{option}: there is no such option{meant(option, [*known, *map(str, groups)])}"


def _composed(conf: Path, config_name: str, overrides: list[str]) -> DictConfig:
    """The config, or an empty one where the other overrides don't compose either."""
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            return compose(config_name, overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException):
        return DictConfig({})


def _keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Every key, with dots before those that are further in."""
    for key in map(str, node):
        yield f"{prefix}{key}"
        known = not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key)
        if known and isinstance(node[key], DictConfig):
            yield from _keys(node[key], f"{prefix}{key}.")
