"""
Print figures of the library named `mingpt` that is on the path, through its public interface.

    PYTHONPATH=path/to/minGPT python tests/golden/figures.py > tests/golden/mingpt.json

This command made mingpt.json with Karpathy's minGPT (commit 37baab7, torch 2.13).
tests/mingpt/test_parity.py computes the same figures with this project's library and compares them.
"""

import contextlib
import io
import json
import sys

import torch

from mingpt.model import GPT
from mingpt.trainer import Trainer
from mingpt.utils import CfgNode, set_seed


class Countdown(torch.utils.data.Dataset):
    """Row i counts down from i modulo 11. The targets at its first two positions do not count."""

    def __len__(self):
        return 200

    def __getitem__(self, i):
        row = (i - torch.arange(9)) % 11
        y = row[1:].clone()
        y[:2] = -1
        return row[:-1], y


def nano(dropout=0.0, **changes):
    config = GPT.get_default_config()
    config.model_type, config.vocab_size, config.block_size = "gpt-nano", 11, 8
    config.embd_pdrop = config.resid_pdrop = config.attn_pdrop = dropout
    config.merge_from_dict(changes)
    return config


def printed(function, *args):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        result = function(*args)
    return out.getvalue(), result


def complaint(function, *args):
    try:
        printed(function, *args)
    except AssertionError as error:
        return str(error)
    return None


def trained(iterations=25):
    """Train a gpt-nano without dropout and with default settings.

    Returns (losses, what was printed, the trainer).
    """
    set_seed(1)
    model_line, model = printed(GPT, nano())
    config = Trainer.get_default_config()
    config.device, config.num_workers, config.max_iters = "cpu", 0, iterations
    trainer_line, trainer = printed(Trainer, config, model, Countdown())
    losses = []
    trainer.set_callback("on_batch_end", lambda t: losses.append(t.loss.item()))
    trainer.run()
    return losses, [model_line, trainer_line], trainer


def sampled(model):
    """Continuations longer than the block: greedy, and drawn with a seed."""
    model.eval()
    start = torch.tensor([[3, 2, 1], [10, 4, 4]])
    set_seed(2)
    return {
        "greedy": model.generate(start, 9).tolist(),
        "drawn": model.generate(start, 9, temperature=1.3, do_sample=True, top_k=4).tolist(),
    }


def overrides():
    """The settings that `merge_from_args` makes of arguments, and what it prints."""
    tree = CfgNode(a=1, b="x", model=CfgNode(n=2, name="q", deep=CfgNode(z=None)))
    lines, _ = printed(tree.merge_from_args, ["--a=[1, 2]", "--model.n=3e-4",
                                              "--model.name=gpt-nano",
                                              "--model.deep.z=False"])
    return {"tree": tree.to_dict(), "lines": lines, "str": str(tree),
            "no equals": complaint(tree.merge_from_args, ["--a"]),
            "no dashes": complaint(tree.merge_from_args, ["a=1"]) is not None,
            "unknown": complaint(tree.merge_from_args, ["--model.layers=1"])}


def figures():
    losses, lines, trainer = trained()
    model = trainer.model
    names = {id(p): name for name, p in model.named_parameters()}
    set_seed(3407)
    fresh = printed(GPT, nano(0.1))[1]
    return {
        "losses": losses,
        "printed": lines,
        "groups": [{"weight_decay": group["weight_decay"],
                    "members": [names[id(p)] for p in group["params"]]}
                   for group in trainer.optimizer.param_groups],
        "samples": sampled(model),
        "shapes": {name: list(p.shape) for name, p in fresh.named_parameters()},
        "initial": {name: [p.sum().item(), p.norm().item()]
                    for name, p in fresh.named_parameters()},
        "first draw after": torch.rand(1).item(),
        "model defaults": GPT.get_default_config().to_dict(),
        "trainer defaults": Trainer.get_default_config().to_dict(),
        "too long": complaint(model, torch.zeros(1, 9, dtype=torch.long)),
        "no vocabulary": complaint(GPT, nano(vocab_size=None)),
        "size twice": complaint(GPT, nano(n_layer=1, n_head=1, n_embd=4)),
        "another model": complaint(GPT.from_pretrained, "gpt3"),
        "overrides": overrides(),
    }


if __name__ == "__main__":
    lines = (f"{json.dumps(name)}: {json.dumps(figure)}" for name, figure in figures().items())
    sys.stdout.write("{\n" + ",\n".join(lines) + "\n}\n")
