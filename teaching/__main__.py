"""``python -m teaching`` draws every figure of the pages in docs/; with names of figures, those alone."""

import sys
from collections.abc import Callable
from pathlib import Path

from teaching import attention, codes, masking, playing

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "pictures"
FIGURES: dict[str, Callable[[Path], None]] = {
    "attention_masks.png": attention.masks,
    "attention_reach.png": attention.reach,
    "positions.png": attention.positions,
    "quantization.png": codes.quantization,
    "video_tokens.png": codes.video,
    "action_codes.png": codes.actions,
    "training_masks.png": masking.masks,
    "schedules.png": masking.schedules,
    "orders.png": masking.orders,
    "unmasking.gif": masking.film,
    "playing_window.png": playing.window,
}


def main() -> None:
    """Draw them."""
    names = sys.argv[1:] or list(FIGURES)
    if unknown := sorted(set(names) - set(FIGURES)):
        sys.exit(f"error: there is no figure {unknown[0]}: choose of {', '.join(FIGURES)}")
    for name in names:
        FIGURES[name](FOLDER / name)
        print(FOLDER / name)


if __name__ == "__main__":
    main()
