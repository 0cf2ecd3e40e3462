"""
Slot `lr_schedule`: the learning rate over a run.

A member is a pure function (progress, config) → the rate as a share of its peak. Progress is 0 when
the warm-up ends and 1 at the last iteration. The warm-up is not part of the member, so the two can
be ablated separately.
"""

import math

from mingpt.utils import BadInput, CfgNode


def constant(progress: float, config: CfgNode) -> float:
    """minGPT's schedule: always the peak."""
    return 1.0


def cosine(progress: float, config: CfgNode) -> float:
    """Half a cosine, from the peak down to `min_lr_ratio` of it. Loshchilov & Hutter 2016, arXiv
    1608.03983."""
    return (config.min_lr_ratio
            + (1 - config.min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress)))


def linear(progress: float, config: CfgNode) -> float:
    """A straight line from the peak down to `min_lr_ratio` of it."""
    return 1 - (1 - config.min_lr_ratio) * progress


def wsd(progress: float, config: CfgNode) -> float:
    """Warm-up, stable, decay: the peak, then a straight line down to `min_lr_ratio` of it over the
    last `decay_share` of the progress. Hu et al. 2024 (MiniCPM), arXiv 2404.06395."""
    start = 1 - config.decay_share
    return 1.0 if progress <= start else linear((progress - start) / config.decay_share, config)


constant.options = {}
cosine.options = linear.options = {"min_lr_ratio": 0.1}
wsd.options = {"min_lr_ratio": 0.1, "decay_share": 0.2}

SCHEDULES = {"constant": constant, "cosine": cosine, "linear": linear, "wsd": wsd}


def warmup_iterations(config: CfgNode) -> int:
    """The number of warm-up iterations: `warmup_steps`, or where that is below 1, that share of
    `max_iters`. Raises BadInput for a negative number, a number above 1 that is not whole, or a
    share without max_iters."""
    steps = config.warmup_steps
    whole = isinstance(steps, int) or (isinstance(steps, float) and steps.is_integer())
    if isinstance(steps, float) and 0 < steps < 1:
        if config.max_iters is None:
            raise BadInput(f"trainer.warmup_steps={steps} is a share of trainer.max_iters, which "
                           f"is not set")
        return round(steps * config.max_iters)
    if not whole or steps < 0:
        raise BadInput(f"trainer.warmup_steps={steps}: give a whole number of iterations, or a "
                       f"number below 1, which is a share of the run")
    return int(steps)


def learning_rate(iteration: int, config: CfgNode) -> float:
    """The learning rate of one iteration, counted from 0: a straight line up over the warm-up, then
    the schedule's curve. Raises BadInput if the curve needs max_iters and there is none."""
    curve, warmup = SCHEDULES[config.lr_schedule], warmup_iterations(config)
    if config.max_iters is None and curve is not constant:  # refused now, not after the warm-up
        raise BadInput(f"trainer.lr_schedule={config.lr_schedule} needs trainer.max_iters: the "
                       f"schedule ends there")
    if iteration < warmup:
        # + 1, so that the first iteration's rate is not 0
        return config.learning_rate * (iteration + 1) / warmup
    if curve is constant:
        return config.learning_rate                              # needs no max_iters
    span = max(1, config.max_iters - 1 - warmup)
    return config.learning_rate * curve(min(1.0, (iteration - warmup) / span), config)
