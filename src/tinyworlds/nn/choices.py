"""A part of a model that the config chooses by name, with the options of that choice."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from tinyworlds.data.settings import check_arguments, check_types, filled


def completed(choices: Mapping[str, type[nn.Module]], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a choice in a checkpoint, with what those from before there were so many leave unsaid.

    What that was, the chosen class knows as `earlier`.
    """
    return filled(options, getattr(choices.get(options.get("name", "")), "earlier", {}))


def build_choice(
    choices: Mapping[str, type[nn.Module]], part: str, options: Mapping[str, Any], **fixed: Any
) -> nn.Module:
    """The one of `choices` that ``options["name"]`` names; the other options and `fixed` are its arguments.

    Raises:
        ValueError: there is no such choice, or an option of `part` is unknown or missing.
    """
    name: Any = options.get("name")
    if name not in choices:
        raise ValueError(f"stage.{part}.name={name!r} is none of {', '.join(choices)}")
    given = {key: value for key, value in options.items() if key != "name"}
    check_arguments(choices[name], given, also=fixed, where=f"stage.{part}", complete=True)
    check_types(choices[name], given, prefix=f"stage.{part}.")
    return choices[name](**given, **fixed)
