"""
Check parts that have no reference by their properties: what every part of a slot must do, whatever
it computes. These are the members of a code file of the user, and those that somebody has added to
the source.

A part that the reference knows is compared with it instead (values.py), so nothing is asked twice.
What the whole model must do is in wholeness.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

import experiments.audit.reference as reference
from experiments.audit.subject import Call, Subject
from experiments.audit.values import exact, off, trained

LENGTH, ROWS = 24, 2
TINY = 1e-6     # a relative change that float32 shows and half precision does not
CLOSE = 1e-4    # share of the largest value by which two orders of the same sums may differ
DRAWS = 64      # training outputs whose mean is compared with the evaluation's
SHARE = 0.05    # of its size, by which that mean may differ
# what a slot's member is called inside a block, and inside the model
PLACES = {"attention": ("attn",), "mlp": ("mlp",), "norm": ("ln_",)}


def foreign(subject: Subject) -> dict[str, nn.Module]:
    """The parts without a reference, by name, in the order of computation: inner parts before the
    block that holds them."""
    unknown = {slot for slot, known in reference.KNOWN.items()
               if getattr(subject.config, slot) not in known}
    inside = tuple(name for slot in unknown for name in PLACES.get(slot, ()))
    if "position" in unknown:
        inside += ("attn",)
    found = {name: part for name, part in subject.parts.items()
             if ("'s " in name and inside and name.partition("'s ")[2].startswith(inside))
             or ("'s " not in name and "block" in unknown)}
    return dict(sorted(found.items(), key=lambda item: "'s" not in item[0]))


def any_foreign(subject: Subject) -> bool:
    """Whether some member of the model's slots has no reference."""
    return any(getattr(subject.config, slot) not in known
               for slot, known in reference.KNOWN.items())


def some_tokens(subject: Subject, rows: int = ROWS) -> Tensor:
    return subject.tokens(rows, min(LENGTH, subject.model.block_size))


def _calls(subject: Subject) -> Iterator[tuple[str, nn.Module, Call]]:
    """(name, part, the arguments of its call) for each foreign part that is called."""
    calls = subject.calls(some_tokens(subject))
    for name, part in foreign(subject).items():
        if part in calls:
            yield name, part, calls[part]


def _output(part: nn.Module, call: Call) -> Tensor:
    """A part's output for fresh copies of its inputs."""
    args, kwargs = call
    return part(*(each.clone() if torch.is_tensor(each) else each for each in args), **kwargs)


@torch.no_grad()
def kept_input(subject: Subject) -> bool | str | None:
    """A part does not write into its input, in evaluation and in training. The residual stream and
    other parts still need it."""
    if not any_foreign(subject):
        return None
    for training in (False, True):
        for name, part, ((x, *args), kwargs) in _calls(subject):
            given = x.clone()
            part.train(training)
            try:
                part(given, *args, **kwargs)
            finally:
                part.eval()
            if not torch.equal(given, x):
                return f"{name} writes into its input{', in training' if training else ''}"
    return True


@torch.no_grad()
def form(subject: Subject) -> bool | str | None:
    """A part returns one tensor of its input's shape, dtype and device, without NaN, and computes
    it to the precision of that dtype."""
    if not any_foreign(subject):
        return None
    wrong: list[str] = []

    def note(part: nn.Module, args: tuple, y: object, name: str) -> None:
        wrong.extend(filter(None, [_misformed(name, args[0], y)]))
    handles = [part.register_forward_hook(partial(note, name=name))
               for name, part in foreign(subject).items()]
    try:
        subject.model(some_tokens(subject))
    except Exception:      # what takes the output may fail over it
        if not wrong:
            raise
    finally:
        for handle in handles:
            handle.remove()
    return wrong[0] if wrong else _coarse(subject) or True


def _misformed(name: str, x: Tensor, y: object) -> str | None:
    if not torch.is_tensor(y):
        return f"{name} returns {type(y).__name__}, not a tensor"
    for what in ("shape", "dtype", "device"):
        was, now = (getattr(each, what) for each in (x, y))
        if was != now:
            was, now = (tuple(each) if what == "shape" else each for each in (was, now))
            return f"{name} changes the {what}: {was} → {now}"
    return f"{name} returns NaN" if y.isnan().any() else None


def _coarse(subject: Subject) -> str | None:
    """A sentence about the first part that rounds to half precision or worse, or None. One channel
    of every position changes by a millionth. In float32 that changes what is computed from it; in
    half precision it is rounded away. Where even a tenth changes nothing, nothing is claimed."""
    if subject.device.type != "cpu":
        return None
    found = list(_calls(subject))
    with exact(subject):
        for name, part, call in found:
            (x, *args), kwargs = _doubled(call)
            channel = torch.zeros_like(x)
            channel[..., int(torch.randint(x.size(-1), (), generator=subject.generator))] = 1
            y = part(x.clone(), *args, **kwargs)
            little, much = (float((part(x + x * channel * by, *args, **kwargs) != y).any(-1)
                                  .double().mean()) for by in (TINY, 0.1))
            if little < much / 2:
                return (f"{name} computes more coarsely than its dtype: a change of its input by "
                        f"{TINY:g} of its size is rounded away in {1 - little / much:.0%} of the "
                        f"positions")
    return None


def _doubled(call: Call) -> Call:
    def double(x):
        return x.double() if torch.is_tensor(x) and x.is_floating_point() else x
    return tuple(map(double, call[0])), {key: double(x) for key, x in call[1].items()}


@torch.no_grad()
def modes(subject: Subject) -> bool | str | None:
    """A part gives in training what it gives in evaluation. Where training draws at random, as
    dropout does, the mean over many draws has the evaluation's size."""
    if not any_foreign(subject):
        return None
    dropping = subject.config.mlp == "moe" and subject.config.capacity_factor is not None
    for name, part, call in _calls(subject):
        if dropping and "'s " not in name:
            continue    # experts drop choices in training only, as declared
        calm = _output(part, call)
        with trained(part):
            draws = [_output(part, call) for _ in range(2)]
            if not torch.equal(*draws):
                draws += [_output(part, call) for _ in range(DRAWS - 2)]
        if len(draws) == 2:
            if (d := off(draws[0], calm)) > CLOSE:
                return (f"{name} gives other values in training than in evaluation, dropout "
                        f"aside: they differ by {d:.1%}, and have {_size(draws[0], calm):.3g} "
                        f"times the size")
            continue
        sizes = torch.tensor([_size(draw, calm) for draw in draws])
        slack = SHARE + 4 * float(sizes.std()) / DRAWS ** 0.5
        if abs(float(sizes.mean()) - 1) > slack:
            return (f"{name} draws at random in training, and the mean over {DRAWS} draws has "
                    f"{float(sizes.mean()):.3g} times the evaluation's size")
    return True


def _size(a: Tensor, b: Tensor) -> float:
    """The factor f for which f · b is nearest to a."""
    return float((a * b).sum() / (b * b).sum().clamp(min=1e-30))


@torch.no_grad()
def stateless(subject: Subject) -> bool | str | None:
    """A part's output depends on its input and its weights alone: what it, or the same part of
    another layer, computed before changes nothing."""
    if not any_foreign(subject):
        return None
    found = list(_calls(subject))
    for training in (False, True):
        for at, (name, part, call) in enumerate(found):
            kin = [(other, each) for _, other, each in (found[at:] + found[:at])
                   if type(other) is type(part)][:2]       # itself and the next of its kind

            def after(noise: bool, name=name, part=part, call=call, kin=kin) -> Tensor:
                for other, ((x, *args), kwargs) in kin:
                    other((3 * subject.noise(*x.shape) + 1).to(x) if noise else x.clone(), *args,
                          **kwargs)
                torch.manual_seed(0)
                return _output(part, call)
            for _, other, _ in found:
                other.train(training)
            try:
                first, second = after(False), after(True)
            finally:
                for _, other, _ in found:
                    other.eval()
            if not torch.equal(first, second):
                return (f"{name}{' in training' if training else ''} depends on what was "
                        f"computed before: it keeps a state between calls")
    return True
