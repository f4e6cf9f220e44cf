"""Which key is which action, unless a player chooses otherwise."""

from collections.abc import Sequence

PLACES = {
    "up": ("ArrowUp", "KeyW"),
    "forward": ("ArrowUp", "KeyW"),
    "down": ("ArrowDown", "KeyS"),
    "back": ("ArrowDown", "KeyS"),
    "left": ("ArrowLeft", "KeyA"),
    "right": ("ArrowRight", "KeyD"),
    "fire": ("Space",),
    "jump": ("Space",),
    "attack": ("Space",),
}
"""Words in the names of actions, and their keys as ``KeyboardEvent.code``."""
UNNAMED = (("ArrowUp", "KeyW"), ("ArrowDown", "KeyS"), ("ArrowLeft", "KeyA"), ("ArrowRight", "KeyD"), ("Space",))
"""Of actions whose meaning is not known, in order."""


def default_keys(names: Sequence[str | None], *, idle: int) -> list[list[str]]:
    """For each action its digit, where it has one, and what its name calls for, each key once.

    Where no name calls for a key, the actions get arrows in order, the idle one excepted.
    """
    keys = [[f"Digit{code}"] if code < 10 else [] for code in range(len(names))]
    taken: set[str] = set()
    for code, name in enumerate(names):
        words = (name or "").lower().replace("_", " ").split()
        wanted = [key for word in words for key in PLACES.get(word, ()) if key not in taken] if code != idle else []
        keys[code] += wanted
        taken.update(wanted)
    if not taken:
        others = (code for code in range(len(names)) if code != idle)
        for code, arrow in zip(others, UNNAMED, strict=False):
            keys[code] += arrow
    return keys
