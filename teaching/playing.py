"""What a world sees while it is played."""

from pathlib import Path

import numpy as np
import torch

from teaching import worlds
from tinyworlds import World
from tinyworlds.data.token_cache import ClipTokens
from tinyworlds.media import grid, save_png
from tinyworlds.models.stage import as_pictures

SCENE, ACTIONS = 1, ("turn left", "turn left", "turn right")
GREY = 200


@torch.inference_mode()
def window(path: Path) -> None:
    """Three steps of a Doom world: the tokens that are seen, those that come of them, and their picture."""
    world = World.load(worlds.folder("vizdoom"))
    dynamics = world.dynamics
    seen: ClipTokens = dynamics.tokenize(worlds.as_floats(worlds.prompts(world)[SCENE][None]))
    shown, noise = world.context_length - 1, torch.Generator().manual_seed(0)
    rows = []
    for action in (worlds.action_named(world, name) for name in ACTIONS):
        before = worlds.token_map(dynamics.video_tokenizer, seen.tokens[0, -shown:])
        seen, codes = dynamics.advance(seen, torch.tensor([[action]]), decoding=world.decoding, generator=noise)
        after = worlds.token_map(dynamics.video_tokenizer, seen.tokens[0, -1:])
        picture = as_pictures(dynamics.render(seen.tokens, count=1, codes=codes)[0])
        rows.append(np.concatenate([before, np.full_like(after, GREY), after, picture]))
    past = [f"t - {back}" if back else "t" for back in reversed(range(shown))]
    columns = (*past, "t + 1, hidden", "t + 1, guessed", "as a picture")
    save_png(path, grid(np.stack(rows), scale=2, labels=ACTIONS, column_labels=columns))
