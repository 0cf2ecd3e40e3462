"""
The one training loop: minGPT's, with a learning-rate schedule, accumulation, autocast and compile.
Callbacks record, evaluate and save.

Events: `on_train_start` (the optimizer exists), `on_batch_end` (before `iter_num` grows),
`on_iteration_end` (after it has grown).
"""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler

from mingpt.config import check_members, check_slots, slot_defaults
from mingpt.lr_schedules import SCHEDULES, learning_rate
from mingpt.memory import keep_freed_memory, recompute_blocks
from mingpt.optimizers import OPTIMIZERS
from mingpt.parallel.check import check_names
from mingpt.parallel.processes import Processes
from mingpt.parallel.tree import GradientTree, sequence
from mingpt.shards import whole
from mingpt.utils import IGNORE_INDEX, BadInput, did_you_mean
from mingpt.utils import CfgNode as CN

SLOTS = {"lr_schedule": SCHEDULES, "optimizer": OPTIMIZERS}
check_members(SLOTS)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Trainer:
    """Trains a model on a dataset of pairs (x, y), (T,) tokens each.

    The model must have a method `loss(x, y)` that returns the loss, or a forward whose second
    result is the loss (see loss_of). Settings that the given config lacks are added to it, with
    their defaults. Raises BadInput for a schedule or optimizer that does not exist, a device that
    this machine does not have, or a negative clipping norm.
    """

    @staticmethod
    def get_default_config() -> CN:
        """Return every training setting with its default: minGPT's first, then the slots with their
        members' options, and the rest."""
        C = CN()
        # device to train on
        C.device = "auto"
        # dataloader parameters
        C.num_workers = 4
        # optimizer parameters
        C.max_iters = None
        C.batch_size = 64
        C.learning_rate = 3e-4
        C.betas = (0.9, 0.95)
        C.weight_decay = 0.1       # only applied on matmul weights
        C.grad_norm_clip = 1.0     # None or 0: no clipping
        C.merge_from_dict(slot_defaults(SLOTS))
        C.warmup_steps = 0         # a number of iterations, or below 1 a share of max_iters
        C.accumulation_steps = 1   # batches per step, each weighted by its share of the targets
        C.dtype = "auto"           # of matrix products: auto is bfloat16 on CUDA, float32 elsewhere
        C.compile = False          # whether to use torch.compile
        # what processes share: ddp, a step's batches; fsdp, the weights too; context, each text
        C.parallel = "ddp"
        C.context_processes = None # that split one text; the rest share batches. None: all split
        C.reduce = "tree"          # how gradients add up: in a fixed order, or torch's all_reduce
        C.checkpoint_activations = False   # the backward computes blocks again: less memory
        return C

    def __init__(self, config: CN, model: torch.nn.Module, train_dataset: Dataset):
        for name, value in self.get_default_config().to_dict().items():
            if not hasattr(config, name):
                setattr(config, name, value)
        check_slots(config, SLOTS, "trainer")
        clip = config.grad_norm_clip
        if clip is not None and not clip >= 0:
            raise BadInput(f"trainer.grad_norm_clip={clip}: give a number above 0, or 0 or None "
                           f"for no clipping")
        check_names(config)
        self.config = config
        self.processes = Processes()   # one alone; a subclass may put a group of several here
        self.optimizer = None
        self.train_dataset = train_dataset
        self.callbacks = defaultdict(list)
        self.device = find_device(config.device)
        self.model = model.to(self.device)
        print("running on device", self.device)
        # variables that will be assigned to trainer class later for logging and etc
        self.iter_num = 0
        self.iter_time = 0.0
        self.iter_dt = 0.0

    def add_callback(self, onevent: str, callback: Callable) -> None:
        """Call callback(trainer) on an event, after the callbacks that it already has."""
        self.callbacks[onevent].append(callback)

    def set_callback(self, onevent: str, callback: Callable) -> None:
        """Call only this callback(trainer) on an event: it replaces all others."""
        self.callbacks[onevent] = [callback]

    def trigger_callbacks(self, onevent: str) -> None:
        """Call the event's callbacks, in the order in which they were added."""
        for callback in self.callbacks.get(onevent, []):
            callback(self)

    def batches(self) -> Iterator:
        """Yield batches (x, y) without end, (B, T) each, drawn with replacement. A subclass may use
        another order."""
        loader = DataLoader(
            self.train_dataset,
            sampler=RandomSampler(self.train_dataset, replacement=True, num_samples=int(1e10)),
            pin_memory=str(self.device).startswith("cuda"),
            batch_size=self.config.batch_size,
            num_workers=self.config.num_workers,
        )
        while True:
            yield from loader

    def run(self) -> None:
        """Train until `max_iters`, or until a callback sets `stop`."""
        config = self.config
        keep_freed_memory()
        if config.checkpoint_activations:
            recompute_blocks(self.model)
        self.optimizer = self.model.configure_optimizers(config)
        self.loss_of = self.processes.loss_of(
            compiled_loss(self.model) if config.compile else loss_of(self.model), self.model)
        if config.reduce == "all_reduce":
            self.loss_of = self.processes.wrapped(self.loss_of, self.model)
        self.model.train()
        self.iter_num, self.stop = 0, False
        self.trigger_callbacks("on_train_start")   # a resumed run sets iter_num here
        batches = self.batches()
        self.iter_time = time.time()
        while not self.stop and (config.max_iters is None or self.iter_num < config.max_iters):
            self.step(batches)
            self.trigger_callbacks("on_batch_end")
            self.iter_num += 1
            now = time.time()
            self.iter_dt, self.iter_time = now - self.iter_time, now
            self.trigger_callbacks("on_iteration_end")

    def step(self, batches: Iterator) -> None:
        """Take one optimizer step on the next `accumulation_steps` batches, of which `batches`
        gives this process's share. Sets `loss` (nats per token), `lr`, `grad_norm` and `targets`
        (the number of tokens predicted), all of them those of the whole step.

        Each batch's mean loss is weighted by its share of the step's targets. The gradient is then
        the same as that of one large batch, even where some batches have fewer targets. What a
        model adds to its loss (the nats of future heads, the balance of experts) gets the same
        weight.
        """
        config = self.config
        self.lr = learning_rate(self.iter_num, config)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * group.get("rate", 1.0)
        # before the forward, so that its activations can use the old gradients' memory
        self.model.zero_grad(set_to_none=True)
        numbers = self.processes.share(config.accumulation_steps)
        micro_batches = [next(batches) for _ in numbers]
        self.targets, shares = target_shares(self.processes.begin_step(
            [counted_targets(y) for _, y in micro_batches]))
        self._sum_gradients({number: (*micro_batch, shares[number]) for number, micro_batch
                             in zip(numbers, micro_batches, strict=True)})
        limit = config.grad_norm_clip or float("inf")   # None and 0: no clipping
        self.grad_norm = whole(torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit))
        self.before_update()
        self.optimizer.step()

    def _sum_gradients(self, micro_batches: dict[int, tuple]) -> None:
        """{number: (x, y, its share of the step)} → `loss` and the parameters' `grad`, summed over
        these micro-batches and those of the other processes."""
        in_tree, own, total = (self.config.reduce == "tree", len(micro_batches),
                               self.config.accumulation_steps)
        tree = GradientTree([p for p in self.model.parameters() if p.requires_grad], own,
                            sequence(own, total) if in_tree else own)
        last = max(micro_batches)
        for number, (x, y, share) in micro_batches.items():
            loss = 0.0
            # A batch without targets is skipped: its mean loss would be NaN. DDP's last one is not,
            # because its backward is what sums the gradients. Shared weights are in every backward.
            if share or self.processes.sharded or (
                    not in_tree and number == last and self.processes.count > 1):
                self.before_forward(number)
                self.processes.begin_batch(share)
                with (contextlib.nullcontext() if number == last
                      else self.processes.local(self.loss_of)):
                    loss = self._accumulate(x.to(self.device, non_blocking=True),
                                            y.to(self.device, non_blocking=True), share)
            tree.add(loss)
        self.processes.finish_gradients()
        self.loss = (self.processes.sum(tree) if in_tree else self.processes.sum_losses(
            torch.as_tensor(tree.loss, device=self.device)))

    def before_forward(self, number: int) -> None:
        """Called before the forward of each batch of a step; `number` counts them from 0. Does
        nothing here; a subclass may seed the dropout."""

    def before_update(self) -> None:
        """Called before the optimizer's step. Does nothing here; a subclass may seed what an
        optimizer draws."""

    def _accumulate(self, x: torch.Tensor, y: torch.Tensor, share: float) -> torch.Tensor | float:
        """x and y (B, T): add one batch's gradient, weighted by its share of the step. Returns its
        loss with the same weight."""
        with self.autocast():
            loss = self.loss_of(x, y)
        # torch averages over the processes, where a sum is wanted
        averaged = self.processes.count if self.config.reduce == "all_reduce" else 1
        (loss * (share * averaged)).backward()
        return loss.detach() * share if share else 0.0

    def autocast(self) -> contextlib.AbstractContextManager:
        """Return a context in which matrix products use `dtype`. Raises BadInput for an unknown
        dtype."""
        kind = torch.device(self.device).type
        name = self.config.dtype
        if name == "auto":
            name = "bfloat16" if kind == "cuda" else "float32"
        if name not in DTYPES:
            raise BadInput(f"trainer.dtype={name!r}{did_you_mean(name, ['auto', *DTYPES])}")
        return torch.autocast(kind, DTYPES[name]) if name != "float32" else contextlib.nullcontext()


def counted_targets(y: torch.Tensor) -> int:
    """The number of targets (B, T) that count."""
    return int((y != IGNORE_INDEX).sum())


def target_shares(counts: list[int]) -> tuple[int, list[float]]:
    """The targets that count in each batch → (their sum, each batch's share of it). Where none
    counts, all batches have the same share, and the loss is NaN, as F.cross_entropy gives."""
    total = sum(counts)
    if not total:
        return 0, [1 / len(counts)] * len(counts)
    return total, [count / total for count in counts]


def loss_of(model: torch.nn.Module) -> Callable:
    """Return a function (x, y), (B, T) each → the loss, a scalar. It is the model's `loss`, or else
    the second result of its forward, as in minGPT. If a subclass overrides only one of the two,
    that one is used."""
    owner = next(cls for cls in type(model).__mro__ if "loss" in vars(cls)
                 or "forward" in vars(cls))
    return model.loss if "loss" in vars(owner) else lambda x, y: model(x, y)[1]


def compiled_loss(model: torch.nn.Module) -> Callable:
    """Return loss_of(model), compiled by torch.compile. A GPT's head is left out, because compiled
    code would hold all its chunks of logits at once."""
    loss = loss_of(model)
    if loss != getattr(model, "loss", None):
        return torch.compile(loss)
    return partial(loss, trunk=torch.compile(model.hidden))


def find_device(name: str | None = "auto") -> str:
    """Return the device's name; for "auto" or None, the first of cuda, mps and cpu that this
    machine has. Raises BadInput for a device that it does not have."""
    if name in (None, "auto"):
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    # torch raises a different exception for each kind of device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        kind = str(name).partition(":")[0]
        reason = str(error).splitlines()[0] if kind in ("cuda", "mps") else "no such device"
        raise BadInput(f"device {name!r}: {reason}; this machine has {find_device()!r}; others are "
                       f"called cpu, cuda, cuda:1 and mps") from None
    return name
