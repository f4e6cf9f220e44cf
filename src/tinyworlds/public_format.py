"""Our models in the public project's terms: what its configs say, and how its tensors are called and cut.

Its models are ours at ``experiment=reference`` (github.com/AlmondGod/tinyworlds).
"""

import copy
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from tinyworlds.data.settings import check_number, check_whole
from tinyworlds.maskgit import Decoding
from tinyworlds.models import ActionTokenizer, Dynamics, Stage, VideoTokenizer
from tinyworlds.nn.feed_forward import SWIGLU, MoE
from tinyworlds.nn.norms import FILM
from tinyworlds.nn.positions import SINCOS

LIMITS = {
    "frame_size": (1, 1024), "patch_size": (1, 256), "embed_dim": (6, 4096), "num_heads": (1, 256),
    "hidden_dim": (2, 2**15), "num_blocks": (1, 64), "latent_dim": (1, 16), "num_bins": (2, 64),
    "n_actions": (2, 2**16), "context_length": (2, 1024), "num_experts": (1, 64), "top_k_experts": (1, 64),
}  # fmt: skip
"""The least and the most that a config may say."""
UNKNOWN = ("use_rope", "use_adaln_zero")
"""Variants of its models that are not converted: ours of the like compute something else."""

TRANSFORMER = ("embed_dim", "num_heads", "hidden_dim", "num_blocks")
BLOCK = {"norm": "post", "qk_norm": False, "positions": SINCOS}
PATCHES = {"patches": "linear", **BLOCK}
FIXED: dict[str, dict[str, Any]] = {
    "video_tokenizer": {**PATCHES, "local": False, "temporal": True, "latent_norm": False},
    "action_tokenizer": {"num_bins": 2, "shrink": 1, "latent_norm": False, "codes": None},
    "encoder": {"name": "mean_concat", **PATCHES},
    "decoder": {"name": "masked", **PATCHES},
    "dynamics": {**BLOCK, "conditioning": FILM, "last_actions": 1},
}
"""What is a choice here, and there the only way."""
TRAINING: dict[str, dict[str, Any]] = {
    "video_tokenizer": {"moving_weight": 0},
    "action_tokenizer": {"usage_weight": 0, "variance_weight": 100, "variance_target": 0.01, "moving_weight": 0},
    "decoder": {"mask_ratio": 1.0},
    "dynamics": {
        "masking": "anchored",
        "mask_ratio": 0.5,
        "context_noise": 0,
        "own_context": 0,
        "moving_weight": 0,
        "decoding": {"steps": 10, "schedule": "exponential", "temperature": 0, **Decoding.earlier},
    },
}
"""How its models are trained and played, which checkpoints do not say."""

EXPERTS = {"num_experts": "num_experts", "top_k": "top_k_experts", "balance_weight": "moe_aux_loss_coeff"}
"""Our options of ``stage/feed_forward=moe`` and what they are called there."""

BLOCKS = (
    (r"\.(spatial|temporal)\.part\.qkv\.", r".\1_attn.{q,k,v}_proj."),
    (r"\.(spatial|temporal)\.part\.out\.", r".\1_attn.out_proj."),
    (r"\.(spatial|temporal)\.norm\.", r".\1_attn.norm."),
    (r"\.feed_forward\.(?:part\.)?", ".ffn."),
    (r"\.gate_and_value\.", ".w_{v,g}."),
    (r"(ffn\.(?:experts\.\d+\.)?)out\.", r"\1w_o."),
    (r"\.norm\.norm\.", ".norm.rms."),
    (r"\.scale_and_shift\.", ".to_gamma_beta."),
)
NAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "video_tokenizer": (
        *BLOCKS,
        (r"^(encoder|decoder)\.blocks\.", r"\1.transformer.blocks."),
        (r"^patch_embedding\.embed\.", "encoder.patch_embed.proj."),
        (r"^to_latent\.", "encoder.latent_head."),
        (r"^from_latent\.", "decoder.latent_embed."),
        (r"^pixel_head\.pixels\.0\.", "decoder.frame_head.to_pixels."),
    ),
    "action_tokenizer": (
        *BLOCKS,
        (r"\.patch_embedding\.embed\.", ".patch_embed.proj."),
        (r"^encoder\.head\.", "encoder.action_head."),
        (r"^decoder\.norm\.", "decoder.frame_head.0."),
        (r"^decoder\.pixel_head\.pixels\.0\.", "decoder.frame_head.1."),
    ),
    "dynamics": (*BLOCKS, (r"^from_latent\.", "latent_embed."), (r"^to_logits\.", "output_mlp.")),
}
"""Patterns in the names of our tensors and what is in their place there; of several names each has an equal part."""


def hyperparameters(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage here must be given to be the model of a public `config`; of the dynamics, less the tokenizers.

    Raises:
        ValueError: the config lacks a key, or says something impossible or unknown here.
    """
    for variant in UNKNOWN:
        if config.get(variant):
            raise ValueError(f"{variant}={config[variant]}: no such variant is converted")
    transformer = _numbers(config, TRANSFORMER)
    patches = _numbers(config, ("frame_size", "patch_size"))
    made = {**FIXED[name], **copy.deepcopy(TRAINING[name]), "dataset": _dataset(config)}
    if name != Dynamics.name:
        made["frame_size"] = (patches["frame_size"], patches["frame_size"])
    if name == ActionTokenizer.name:
        part = {"patch_size": patches["patch_size"], **transformer}
        made["encoder"] = {**FIXED["encoder"], **part}
        made["decoder"] = {**FIXED["decoder"], **TRAINING["decoder"], **part}
        return {**made, **_numbers(config, ("n_actions",))}
    latents = _numbers(config, ("latent_dim", "num_bins"))
    if name == Dynamics.name:
        return {**made, **transformer, "feed_forward": _feed_forward(config)}
    return {**made, **transformer, **latents, "patch_size": patches["patch_size"]}


def config(stage: Stage, world: Dynamics) -> dict[str, Any]:
    """What the public project must read in a config to make the model of a stage of `world`.

    Raises:
        ValueError: it has no such model; the sentence names the option that stands in the way.
    """
    options = dict(stage.hparams)
    _check_same(stage.name, options)
    height, width = stage.frame_size
    if height != width:
        raise ValueError(f"frames of {height}x{width} stand in the way: the public project's are square")
    made = {
        "frame_size": height,
        "dataset": stage.dataset["name"].upper(),
        "context_length": stage.dataset["clip_length"],
        "n_actions": world.action_tokenizer.n_actions,
        "use_moe": False,
    }
    if stage.name == ActionTokenizer.name:
        encoder, decoder = (
            {key: options[part][key] for key in ("patch_size", *TRANSFORMER)} for part in ("encoder", "decoder")
        )
        for key in encoder:
            if encoder[key] != decoder[key]:
                raise ValueError(
                    f"stage.encoder.{key}={encoder[key]} and stage.decoder.{key}={decoder[key]} stand in the way: "
                    "in the public project they are the same"
                )
        return {**made, **encoder}
    tokens = world.video_tokenizer.hparams
    made |= {key: options[key] for key in TRANSFORMER}
    made |= {key: tokens[key] for key in ("patch_size", "latent_dim", "num_bins")}
    if stage.name == Dynamics.name:
        made |= {"conditioning_dim": world.action_tokenizer.latent_dim, "use_actions": True}
        experts = options["feed_forward"]
        if experts["name"] == "moe":
            made |= {"use_moe": True, **{theirs: experts[ours] for ours, theirs in EXPERTS.items()}}
    return made


def tensors(stage: Stage) -> dict[str, Tensor]:
    """The weights of a stage as the public project's model has them, that of the dynamics without the tokenizers."""
    made = {}
    for name, tensor in _own(stage).items():
        names = _names(stage.name, name)
        for public, part in zip(names, tensor.chunk(len(names)), strict=True):
            made[public] = _cut(stage.name, public, part)
    if isinstance(stage, VideoTokenizer | ActionTokenizer):
        made["quantizer.basis"] = stage.quantizer.place
    return made


def check(stage: Stage, public: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not those of `stage`, which may be without memory, by name and shape.

    Raises:
        ValueError: names the first tensor that is missing, unknown, or of another shape.
    """
    needed = tensors(stage)
    for name in sorted(needed.keys() | public.keys()):
        if name not in public:
            raise ValueError(f"it has no {name}")
        if name not in needed:
            raise ValueError(f"it has {name}, for which there is no place here")
        if public[name].shape != needed[name].shape or public[name].is_complex():
            raise ValueError(
                f"{name} has the shape {tuple(public[name].shape)}, but by the config it is {tuple(needed[name].shape)}"
            )


def fill(stage: Stage, public: Mapping[str, Tensor]) -> None:
    """Give `stage` the weights of the public project's model, which `check` has seen.

    Raises:
        ValueError: its tokens are numbered in another way than ours.
    """
    if isinstance(stage, VideoTokenizer | ActionTokenizer):
        basis = public["quantizer.basis"]
        if basis.tolist() != stage.quantizer.place.tolist():
            raise ValueError(f"its codes are numbered by {basis.tolist()}, ours by {stage.quantizer.place.tolist()}")
    with torch.no_grad():
        for name, tensor in _own(stage).items():
            tensor.copy_(torch.cat([public[part] for part in _names(stage.name, name)]).view_as(tensor))


def _numbers(config: Mapping[str, Any], keys: Iterable[str]) -> dict[str, int]:
    for key in keys:
        least, most = LIMITS[key]
        if key not in config:
            raise ValueError(f"{key} is missing")
        check_whole(key, config[key], at_least=least)
        check_number(key, config[key], at_most=most)
    return {key: config[key] for key in keys}


def _dataset(config: Mapping[str, Any]) -> dict[str, Any]:
    """Its store is not said: it is looked for where ours of the same game is, unless play.py is given store=."""
    game = config.get("dataset")
    name = game.lower() if isinstance(game, str) and re.fullmatch(r"\w{1,64}", game, re.ASCII) else "public"
    length = _numbers(config, ("context_length",))["context_length"]
    return {"name": name, "path": f"data/{name}.h5", "val_fraction": 0.1, "clip_length": length}


def _feed_forward(config: Mapping[str, Any]) -> dict[str, Any]:
    if not config.get("use_moe"):
        return dict(SWIGLU)
    _numbers(config, ("num_experts", "top_k_experts"))
    check_number("moe_aux_loss_coeff", config.get("moe_aux_loss_coeff"), at_least=0, at_most=1e6)
    return {"name": "moe", **MoE.earlier, **{ours: config[theirs] for ours, theirs in EXPERTS.items()}}


def _check_same(part: str, options: Mapping[str, Any]) -> None:
    """Refuse an option whose value the public project does not have."""
    for key, value in FIXED[part].items():
        if options[key] != value:
            where = f"stage.{part}.{key}" if part in ("encoder", "decoder") else f"{part}: stage.{key}"
            raise ValueError(f"{where}={options[key]} stands in the way: the public project has {key}={value} alone")
    for inner in ("encoder", "decoder"):
        if inner in options:
            _check_same(inner, options[inner])


def _own(stage: Stage) -> dict[str, Tensor]:
    """The weights that a stage does not share with the tokenizers that it carries."""
    carried = ("video_tokenizer.", "action_tokenizer.")
    return {name: tensor for name, tensor in stage.state_dict().items() if not name.startswith(carried)}


def _names(stage: str, name: str) -> list[str]:
    """What our tensor is called there; several names where it is in several parts."""
    for pattern, there in NAMES[stage]:
        name = re.sub(pattern, there, name)
    before, brace, rest = name.partition("{")
    if not brace:
        return [name]
    choices, _, after = rest.partition("}")
    return [f"{before}{choice}{after}" for choice in choices.split(",")]


def _cut(stage: str, name: str, tensor: Tensor) -> Tensor:
    """One of our tensors, or a part of it, in the shape that it has there."""
    if name.endswith("patch_embed.proj.weight"):  # pixels are unshuffled into channels there
        return tensor.flatten(1)[:, :, None, None]
    if name.endswith("mask_token"):
        return tensor[None, None, None]
    if (stage, name) == (ActionTokenizer.name, "decoder.frame_head.1.weight"):
        return tensor.flatten(1)
    return tensor
