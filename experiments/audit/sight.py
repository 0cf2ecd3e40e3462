"""
Compare the keys that a query really sees with those that are declared, in each layer and through
all layers.

Each row of a batch tests one query. The gradient of the query's output is exactly zero at every
position of the row's input that does not reach the query. Gradients miss some dependencies, such as
hard choices; changing one position at a time finds those. A query's own key is hidden, because the
query itself comes from the same position. It shows where all positions hold the same vector: all
values are then equal, so the scores change nothing, and only the key's value can have a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from experiments.audit.subject import CHUNK_TOKENS, QUERIES, Call, Subject, head_at

# A key is seen if its gradient exceeds this share of the row's largest. Float32 sums in another
# order stay below it; a key that is masked only by a score of −10 exceeds it.
LEAK = 1e-6
MOVED = 1e-5    # an output moves if it changes by more than this share of the largest value
# A query's own key is unseen if its gradient is at most this share of the row's largest. Scores
# that change nothing leave only rounding, a thousandth of what a key contributes.
FAINT = 1e-5
# Outputs are multiplied by this before gradients are taken, so that the gradient of a path through
# many layers stays within float32's range.
LOUD = 1e8
TRIES = 3       # random inputs before a key counts as unseen; a hard choice may leave out some keys


@dataclass
class Sight:
    """What the queries of one part were found to see. The tensors are on the CPU: `queries` is
    (Q,), the others are (Q, T) bool."""
    where: str
    queries: Tensor
    declared: Tensor
    sees: Tensor        # the gradient is larger than rounding errors
    blind: Tensor       # there is no gradient at all

    def finding(self, wrong: Tensor, verb: str) -> str | None:
        """A sentence about the first pair of query and key in `wrong`, (Q, T) bool; None without
        any."""
        if not wrong.any():
            return None
        q, key = wrong.nonzero()[0].tolist()
        return f"{self.where}, query {self.queries[q]} {verb} key {key} (T = {wrong.size(1)})"

    @property
    def future(self) -> Tensor:
        """(Q, T) bool: the pairs of a query and a later key."""
        return torch.arange(self.sees.size(1)) > self.queries[:, None]


# -- the claims ------------------------------------------------------------------------------------

def later(subject: Subject) -> bool | str:
    """No layer's query sees a later key. Three lengths are tried in turn: short, long, short."""
    return _first(s.finding(s.sees & s.future, "sees the later") for s in layers(subject))


def exact(subject: Subject) -> bool | str:
    """Each layer's query sees all keys of the layer's pattern and no other key."""
    return _first(s.finding(s.sees & ~s.declared & ~s.future, "sees, against its pattern,")
                  or s.finding(s.declared & s.blind, "does not see, as its pattern declares,")
                  for s in layers(subject))


def padded(subject: Subject) -> bool | str:
    """In a row that ends with padding, real queries see exactly the declared keys, and no query in
    the padding sees a later key."""
    idx, real = subject.padded(subject.long)
    asked = torch.linspace(0, real, 8).long().clamp(max=subject.long - 1)  # the last one is padding
    return _first(_padded(s, real) for s in _looks(subject, idx, asked))


def _padded(sight: Sight, real: int) -> str | None:
    is_real = (sight.queries < real)[:, None]
    padding = torch.arange(sight.sees.size(1)) >= real
    return (sight.finding(sight.sees & padding & (is_real | sight.future), "sees the padding at")
            or sight.finding(sight.sees & ~sight.declared & is_real,
                             "of another document or pattern sees")
            or sight.finding(sight.blind & sight.declared & is_real,
                             "of a padded row does not see"))


def blocks(subject: Subject) -> bool | str:
    """In a whole block, a query sees the same keys as in its attention: norms, MLP and residual
    stream mix no positions."""
    return _first(s.finding(s.sees & ~s.declared, "sees, by way of something other than attention,")
                  or s.finding(s.declared & s.blind, "loses what its attention sees:")
                  for s in _looks(subject, subject.tokens(1, subject.long), part="", most=8))


def composed(subject: Subject) -> bool | str:
    """Through all layers, a prediction depends on exactly the tokens that the layers' patterns
    reach when they are applied one after another."""
    idx = subject.tokens(1, subject.long)
    queries = torch.tensor(subject.queries(len(subject.blocks) - 1, subject.long, 12))
    reached = torch.eye(subject.long)
    for layer in range(len(subject.blocks)):
        reached = ((subject.declared(layer, idx).float() + torch.eye(subject.long)) @ reached
                   > 0).float()

    def run(x: Tensor, asked: Tensor) -> Tensor:
        with head_at(subject.model, asked), _embedded(subject, x):
            return subject.model(idx.expand(len(x), -1))[0]
    size = max(1, min(len(queries), CHUNK_TOKENS // subject.long))
    rows = _gradients(subject, run, queries, subject.long, size)
    sight = _sight("the model", queries, reached[queries].bool(), rows)
    return _first([sight.finding(sight.sees & sight.future, "sees the later"),
                   sight.finding(sight.sees & ~sight.declared,
                                 "sees, though no layers lead there,"),
                   sight.finding(sight.declared & sight.blind,
                                 "does not see, though its layers lead there,")])


def _first(findings: Iterable[str | None]) -> bool | str:
    return next((finding for finding in findings if finding), True)


# -- looking ---------------------------------------------------------------------------------------

def layers(subject: Subject) -> list[Sight]:
    """Look at every layer's attention at three lengths in turn, so that a mask which is kept from
    one length and used at another shows. The result is computed once per subject."""
    if not hasattr(subject, "sights"):
        lengths = [(subject.short, 8), (subject.long, QUERIES), (subject.short, 8)]
        subject.sights = [s for T, most in lengths
                          for s in _looks(subject, subject.tokens(1, T), most=most)]
    return subject.sights


def _looks(subject: Subject, idx: Tensor, asked: Tensor | None = None, *, part: str = "'s attn",
           most: int = QUERIES) -> Iterator[Sight]:
    """Look at each layer's attention (or its block, for part '') on a row of tokens (1, T): by
    gradients, by changes, and at each query's own key."""
    T = idx.size(1)
    keys = torch.tensor(sorted({T - 1, T // 2, T // 3}))
    size = max(1, min(subject.affordable(T, most), CHUNK_TOKENS // T))
    for_gradients, for_changes = (subject.calls(idx.expand(rows, -1))
                                  for rows in (size, len(keys) + 1))
    for layer in range(len(subject.blocks)):
        where, declared = f"layer {layer}{part}", subject.declared(layer, idx)
        if not part:
            declared = declared | torch.eye(T, dtype=torch.bool)       # the residual stream
        queries = torch.tensor(subject.queries(layer, T, most)) if asked is None else asked
        module = subject.parts[where]
        yield _by_gradient(subject, where, _bound(module, for_gradients), queries, declared, size)
        yield _by_change(subject, where, _bound(module, for_changes), keys, declared)
        if part:
            yield _own_key(subject, where, _bound(module, for_gradients), queries[-size:],
                           declared, size)


def _bound(module: nn.Module, calls: dict[nn.Module, Call]) -> Callable[..., Tensor]:
    """The part as a function of its input alone. Its other arguments, such as a mask, are those of
    its call in `calls`."""
    (_, *args), kwargs = calls[module]
    return lambda x, asked=None: module(x, *args, **kwargs)


def _by_gradient(subject: Subject, where: str, run: Callable, queries: Tensor, declared: Tensor,
                 size: int) -> Sight:
    most = torch.zeros(len(queries), declared.size(1))
    for _ in range(TRIES):
        most = most.maximum(_gradients(subject, run, queries, declared.size(1), size))
        if not (declared[queries] & (most == 0)).any():
            break
    return _sight(where, queries, declared[queries], most)


def _sight(where: str, queries: Tensor, declared: Tensor, gradients: Tensor) -> Sight:
    """Gradients (Q, T) → a Sight. Infinite gradients count as seen."""
    largest = gradients.masked_fill(gradients.isinf(), 0).amax(1, keepdim=True)
    return Sight(where, queries, declared, gradients > LEAK * largest, gradients == 0)


def _own_key(subject: Subject, where: str, run: Callable, queries: Tensor, declared: Tensor,
             size: int) -> Sight:
    """Whether each query sees its own key. The Sight says nothing about other keys."""
    gradients = _gradients(subject, run, queries, declared.size(1), size, alike=True)
    faint = gradients <= FAINT * gradients.amax(1, keepdim=True)
    own = torch.arange(declared.size(1)) == queries[:, None]
    return Sight(where, queries, declared[queries], torch.zeros_like(own), own & faint)


def _gradients(subject: Subject, run: Callable, queries: Tensor, T: int, size: int,
               alike: bool = False) -> Tensor:
    """The largest gradient of each query's output with respect to each position of its input,
    (Q, T) on the CPU; infinite where it is NaN. `size` queries are computed at once. With `alike`,
    all positions of an input hold the same vector."""
    found = []
    for asked in queries.split(size):
        filled = torch.cat([asked, asked[-1:].expand(size - len(asked))])
        x = subject.noise(size, 1 if alike else T, subject.config.n_embd)
        x = x.repeat(1, T // x.size(1), 1).requires_grad_()
        with torch.enable_grad():
            y = run(x, filled)
            y = y[:, 0] if y.size(1) == 1 else y[torch.arange(size), filled]  # (size, C or vocab)
            gradient, = torch.autograd.grad((y * subject.noise(*y.shape)).sum() * LOUD, x,
                                            allow_unused=True, materialize_grads=True)
        found.append(gradient.abs().amax(-1)[:len(asked)].nan_to_num(torch.inf).cpu())
    return torch.cat(found)


@torch.no_grad()
def _by_change(subject: Subject, where: str, run: Callable, keys: Tensor,
               declared: Tensor) -> Sight:
    """Change one position at a time and find the queries whose outputs change. The Sight can show
    keys that should not be seen, but not keys that are missing."""
    T = declared.size(1)
    x = subject.noise(1, T, subject.config.n_embd).repeat(len(keys) + 1, 1, 1)
    x[torch.arange(len(keys)), keys] = subject.noise(len(keys), subject.config.n_embd)
    y = run(x)
    moved = (y[:-1] - y[-1]).abs().amax(-1).nan_to_num(torch.inf).cpu()         # (keys, T)
    sees = torch.zeros(T, T, dtype=torch.bool)
    sees[:, keys] = (moved > MOVED * float(y.abs().nan_to_num(0).amax())).T
    return Sight(where, torch.arange(T), declared, sees, torch.zeros_like(sees))


class _embedded:
    """Within the context, the token embedding returns x (B, T, C) whatever the tokens are."""

    def __init__(self, subject: Subject, x: Tensor):
        self.table, self.x = subject.model.transformer.wte, x

    def __enter__(self) -> None:
        self.handle = self.table.register_forward_hook(lambda module, args, output: self.x)

    def __exit__(self, *exception) -> None:
        self.handle.remove()
