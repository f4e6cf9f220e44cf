"""Small models of the public TinyWorlds, in files as it writes them."""

from pathlib import Path

PUBLIC = Path(__file__).parent / "data" / "public"
FILES = {
    "video_tokenizer": PUBLIC / "video_tokenizer_step_100.pth",
    "action_tokenizer": PUBLIC / "latent_actions_step_100.pth",
    "dynamics": PUBLIC / "dynamics_step_100.pth",
}
