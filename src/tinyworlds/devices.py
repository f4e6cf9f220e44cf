"""How torch computes on a device."""

import torch


def allow_tf32(device: str | torch.device) -> None:
    """Let float32 matrix products on a GPU round their factors to TF32, in the whole process; nothing on a CPU.

    Training, the token cache and playing all ask for it: latents that round alike give the same tokens.
    """
    if torch.device(device).type == "cuda":
        torch.set_float32_matmul_precision("high")
