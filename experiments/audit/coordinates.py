"""
Check an arm's parametrization where it claims that a learning rate holds at every size: small
copies of the arm, of several widths and depths, must move equally far in a few large steps.

This is the coordinate check of Yang et al. 2022 (arXiv 2203.03466, appendix D.1). It is necessary
and not sufficient: a rate that transfers passes it, and not every arm that passes it transfers.
"""

from __future__ import annotations

import contextlib
import copy
import math

import numpy as np
import torch
from torch import Tensor, nn

from experiments.audit.reference import KNOWN
from experiments.audit.subject import Subject
from mingpt.model import GPT
from mingpt.utils import CfgNode as CN

WIDTHS, DEPTHS = (32, 64, 128, 256), (2, 4, 8, 16)
HEADS = 2                  # of the narrowest copy
STEPS, RATE = 14, 3e-3      # enough that what is learned outweighs what was drawn
SEEDS = 3
FLAT = {"n_embd": 0.05, "n_layer": 0.15}    # the largest exponent of an activation's movement
VOCABULARY, ROWS, T = 64, 8, 16
SHARED = {"model_type": None, "vocab_size": VOCABULARY, "block_size": T, "schedule": "full",
          "document_end": None, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0,
          "head_dim": None, "attn_scale": None, "n_kv_head": None, "base_n_embd": WIDTHS[0],
          "base_n_head": HEADS, "base_n_layer": DEPTHS[0]}


def transfers(subject: Subject) -> bool | str | None:
    """Under mup, the activations of the layers and the logits move as far at widths 32 to 256, and
    under completep also at 2 to 16 layers. None for the standard parametrization."""
    name = _name(subject.config)
    if name == "standard" or not known(subject):
        return None
    config = subject.config
    hs, base = config.head_dim or config.n_embd // config.n_head, config.base_n_embd
    wanted = math.sqrt(base / config.base_n_head / hs)
    for l, block in enumerate(subject.blocks):
        if not math.isclose(getattr(block.attn, "q_factor", wanted), wanted, rel_tol=1e-6):
            return (f"{name}: layer {l} multiplies its scores by {block.attn.q_factor:.4g} besides "
                    f"1/√hs, declared {wanted:.4g}")
    for key in ("n_embd", *(["n_layer"] if name == "completep" else [])):
        for part, slope in exponents(subject.config, subject.trainer, key).items():
            if not abs(slope) < FLAT[key]:
                return (f"{name}: the movement of {part} over {STEPS} steps grows as {key}^"
                        f"{slope:.2f}, so a learning rate does not hold at another {key}")
    return True


def known(subject: Subject) -> bool:
    """Whether this file knows what the parametrization declares."""
    return _name(subject.config) in KNOWN["parametrization"]


def _name(config: CN) -> str:
    return getattr(config, "parametrization", "standard")


def factors(subject: Subject, name: str) -> tuple[float, float, float, float]:
    """(initial std, rate, decay, Adam's epsilon) of a parameter, over those of the standard
    parametrization, as the papers' tables have them."""
    config = subject.config
    if _name(config) == "standard":
        return 1.0, 1.0, 1.0, 1.0
    wide, module = config.n_embd / config.base_n_embd, name.rpartition(".")[0]
    deep = config.n_layer / config.base_n_layer if _name(config) == "completep" else 1.0
    inside, matrix = ".h." in name, isinstance(subject.model.get_submodule(module), nn.Linear) and (
        name.endswith(".weight"))
    if not matrix:
        std, rate, epsilon = 1.0, 1.0, 1 / wide
    elif module == "lm_head" or module.endswith("router"):
        std, rate, epsilon = 1 / wide, 1 / wide, 1.0
    else:
        std, epsilon = wide ** -0.5, 1 / wide
        rate = wide ** -0.5 if subject.trainer.optimizer == "muon" else 1 / wide
    epsilon /= deep if inside else 1.0
    if module.endswith("c_proj"):
        std, rate, epsilon = std / deep, rate / deep, epsilon * deep
        # √(2·layers) counts the base model's layers
        std *= math.sqrt(deep) if getattr(subject.model.get_submodule(module), "scaled_init",
                                          False) else 1.0
    return std, rate, 1 / rate if matrix else 1.0, epsilon


def grouped(subject: Subject) -> bool | str | None:
    """Every parameter's learning rate and epsilon have the factors of the parametrization. None for
    one that this check does not know."""
    if not known(subject) or subject.trainer.optimizer not in ("adamw", "muon"):
        return None
    names = {id(p): name for name, p in subject.model.named_parameters()}
    declared = getattr(subject.trainer, "adam_eps", 1e-8)
    for group in subject.model.configure_optimizers(subject.trainer).param_groups:
        for p in group["params"]:
            _, rate, _, epsilon = factors(subject, names[id(p)])
            if not math.isclose(group.get("rate", 1.0), rate, rel_tol=1e-6):
                return (f"{names[id(p)]}: its learning rate has the factor "
                        f"{group.get('rate', 1.0):.4g}, declared {rate:.4g}")
            if "betas" in group and not math.isclose(group["eps"], declared * epsilon,
                                                     rel_tol=1e-6):
                return (f"{names[id(p)]}: Adam's epsilon is {group['eps']:.3g}, declared "
                        f"{declared * epsilon:.3g}")
    return True


def exponents(config: CN, trainer: CN, key: str) -> dict[str, float]:
    """{part: the exponent with which its movement grows with n_embd or n_layer}."""
    sizes = WIDTHS if key == "n_embd" else DEPTHS
    moved = [np.mean([_movement(config, trainer, key, size, seed) for seed in range(SEEDS)], axis=0)
             for size in sizes]                                          # sizes × parts
    slopes = np.polyfit(np.log(sizes), np.log(np.maximum(np.array(moved), 1e-12)), 1)[0]
    found = dict(zip(["the first layer", "the last layer", "the logits"], map(float, slopes),
                     strict=True))
    if key == "n_layer":        # each of more layers does less, so that all together do the same
        del found["the first layer"]
    return found


def _movement(config: CN, trainer: CN, key: str, size: int, seed: int) -> list[float]:
    """How far a copy's first layer, last layer and logits move: the root mean square of a layer's
    change, and the growth of the target's logit over the others."""
    model, recipe = _copy(config, key, size, seed), copy.deepcopy(trainer)
    recipe.learning_rate, recipe.weight_decay = RATE, 0.0
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(VOCABULARY, (ROWS, T + 1), generator=generator)    # (rows, T + 1)
    x, y = text[:, :-1], text[:, 1:]
    optimizer, before = model.configure_optimizers(recipe), _seen(model, x)
    with torch.enable_grad():
        for _ in range(STEPS):
            for group in optimizer.param_groups:
                group["lr"] = RATE * group.get("rate", 1.0)
            model.zero_grad()
            model.loss(x, y).backward()
            optimizer.step()
    first, last, logits = (b - a for a, b in zip(before, _seen(model, x), strict=True))
    grown = logits.gather(-1, y[..., None])[..., 0] - logits.mean(-1)       # (rows, T)
    return [float(first.square().mean().sqrt()), float(last.square().mean().sqrt()),
            float(grown.mean())]


def _copy(config: CN, key: str, size: int, seed: int) -> GPT:
    """A small copy of the arm's model. Heads grow in number or in size as the arm's do."""
    width, layers = (size, DEPTHS[0]) if key == "n_embd" else (WIDTHS[0], size)
    grown = config.n_head != config.base_n_head or config.n_embd == config.base_n_embd
    small = copy.deepcopy(config)
    small.merge_from_dict({name: value for name, value in SHARED.items() if hasattr(small, name)})
    small.merge_from_dict({"n_embd": width, "n_layer": layers,
                           "n_head": HEADS * (width // WIDTHS[0] if grown else 1)})
    with contextlib.redirect_stdout(None):
        model = GPT(small)
    model.init_weights(seed)
    return model.train()


@torch.no_grad()
def _seen(model: GPT, x: Tensor) -> list[Tensor]:
    """What the first and the last block give, and the logits."""
    seen: list[Tensor] = []
    blocks = [model.transformer.h[0], model.transformer.h[-1]]
    handles = [block.register_forward_hook(lambda module, args, out: seen.append(out.clone()))
               for block in blocks]
    logits = model(x)[0]
    for handle in handles:
        handle.remove()
    return [*seen, logits]
