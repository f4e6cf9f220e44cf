"""TinyWorlds: a world model that learns to be a game from watching video of it.

Letters in shapes, everywhere: B batch, T frames, P patch tokens per frame, E embedding, L video latent
dimensions, A action latent dimensions, D bins per latent dimension, V = D**L vocabulary, C channels,
H W pixels, Hp Wp patch grid, S patch size. ``actions[:, t]`` carries frame t to frame t+1, so T frames
have T-1 actions.
"""

import os

# Before MKL is first called: else it may round by where numbers lie in memory, and a resumed run would differ.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyworlds.world import World

__all__ = ["World"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: recording a game has no need of the models.
    if name == "World":
        from tinyworlds.world import World

        return World
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
