import pytest
import torch

from tinyworlds.nn.patches import PatchEmbedding, PixelHead, patch_grid


@pytest.mark.parametrize("patches", ["linear", "conv"])
def test_a_token_per_patch_and_back_to_the_frame(patches):
    options = {"frame_size": (16, 24), "patch_size": 4, "embed_dim": 12, "patches": patches}
    frames = torch.randn(2, 3, 3, 16, 24)
    tokens = PatchEmbedding(**options, positions="sincos")(frames)
    assert tokens.shape == (2, 3, 24, 12)
    assert PixelHead(**options)(tokens).shape == frames.shape


def test_a_linear_patch_sees_its_own_pixels_and_paints_them_alone():
    options = {"frame_size": (16, 24), "patch_size": 8, "embed_dim": 12, "patches": "linear"}
    embedding, head = PatchEmbedding(**options, positions="sincos"), PixelHead(**options)
    frames = torch.zeros(1, 1, 3, 16, 24)
    frames[..., 8:16, 16:24] = 1  # row 1, column 2: the last of six patches
    changed = (embedding(frames) != embedding(torch.zeros_like(frames))).any(-1)[0, 0]
    assert changed.tolist() == [False] * 5 + [True]
    tokens = torch.zeros(1, 1, 6, 12)
    tokens[:, :, 5] = 1
    painted = (head(tokens) != head(torch.zeros_like(tokens))).any(2)[0, 0]
    assert painted[8:, 16:].all()
    assert painted.sum() == 64


@pytest.mark.parametrize("size", [(15, 24), (16, 25)])
def test_a_frame_that_patches_do_not_divide_is_refused(size):
    with pytest.raises(ValueError, match=f"patch_size=4 does not divide the frame size {size[0]}x{size[1]}"):
        patch_grid(size, 4)


@pytest.mark.parametrize(("patches", "patch_size"), [("conv", 3), ("conv", 1), ("none", 4)])
def test_impossible_patches_are_refused(patches, patch_size):
    with pytest.raises(ValueError, match="patch"):
        PatchEmbedding(frame_size=(12, 12), patch_size=patch_size, embed_dim=12, patches=patches, positions="sincos")
