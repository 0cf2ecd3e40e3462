"""
Refuses settings that would silently do nothing in an arm, or something else than they say: options
of slot members that the arm does not have, a vocabulary that is not the tokenizer's, a warm-up
longer than the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mingpt.config import options_of
from mingpt.lr_schedules import warmup_iterations
from mingpt.utils import BadInput
from mingpt.utils import CfgNode as CN


def refuse_idle(settings: CN, given: Iterable[str], plain: Mapping[str, Any]) -> None:
    """Raise BadInput for a given setting that has no effect in this arm. The message says what the
    setting belongs to. `given` are the keys that the user gave. `plain` maps every key to the value
    that it has without the arm; giving that value is allowed."""
    for key in given:
        section, _, leaf = key.partition(".")
        value = getattr(getattr(settings, section), leaf)
        if value != plain[key] and (belongs := _belongs(key, settings)):
            raise BadInput(f"{key}={value!r} has no effect here: it belongs to {belongs}")


def _belongs(key: str, settings: CN) -> str | None:
    """What the arm would need for a setting to have an effect; None where the setting has one."""
    section, _, option = key.partition(".")
    owners = {slot: [name for name, member in members.items() if option in options_of(member)]
              for slot, members in _slots(section).items()}
    owners = {slot: names for slot, names in owners.items() if names}
    config = getattr(settings, section)
    if owners and not any(option in _active(_slots(section)[slot][getattr(config, slot)], config)
                          for slot in owners):
        return ", or ".join(f"{section}.{slot}={' or '.join(names)}" for slot,
                            names in owners.items())
    needed = NEEDS.get(key)
    return None if needed is None or needed[1](settings) else needed[0]


def _slots(section: str) -> Mapping[str, Mapping[str, Any]]:
    from mingpt import model, trainer
    return {"model": model.SLOTS, "trainer": trainer.SLOTS}.get(section, {})


def _active(member: Any, config: CN) -> Iterable[str]:
    """The options that a slot's member reads under these settings."""
    if hasattr(member, "active_options"):
        return member.active_options(config)
    return options_of(member)


# setting → (what it needs to have an effect, whether the given settings have that)
NEEDS: dict[str, tuple[str, Callable[[CN], bool]]] = {
    "trainer.context_processes": ("trainer.parallel=context",
                                  lambda s: s.trainer.parallel == "context"),
    "model.rope_local_base": ("a model.schedule with windows",
                              lambda s: s.model.schedule != "full"),
    "model.qk_rope_head_dim": ("model.position=rope", lambda s: s.model.position == "rope"),
    "model.future_weight": ("model.n_future from 2", lambda s: s.model.n_future > 1),
    "data.val_fraction": ("a corpus without data.val_docs", lambda s: s.data.val_docs is None),
    "data.text_key": ("data.paths", lambda s: s.data.paths is not None),
    "run.init_heads": ("run.init", lambda s: s.run.init is not None),
}


def warmup_note(settings: CN, given: Mapping[str, Any]) -> str | None:
    """A note where the warm-up is longer than the run, else None. Raises BadInput where the command
    line or a study gives trainer.warmup_steps itself."""
    trainer = settings.trainer
    warmup = warmup_iterations(trainer)
    if warmup <= trainer.max_iters:
        return None
    text = (f"the warm-up takes {warmup:,} iterations and the run has {trainer.max_iters:,}: the "
            f"full rate is never reached")
    if "trainer.warmup_steps" in given:
        raise BadInput(f"trainer.warmup_steps={trainer.warmup_steps}: {text}; give less, or a "
                       f"share of the run below 1")
    return text


def refuse_disguise(model: CN, asked: Mapping[str, Any]) -> None:
    """Raise BadInput for an arm that is another one under a new name: a kind of attention with
    fewer key and value heads that has as many of them as query heads, and a parametrization without
    the size to which it is relative."""
    from mingpt.attention.heads import ATTENTIONS
    from mingpt.config import SIZES
    from mingpt.parametrization import PARAMETRIZATIONS
    known = options_of(PARAMETRIZATIONS.get(model.parametrization))
    for key in known if model.parametrization in ("mup", "completep") else ():
        if getattr(model, key) is None:
            raise BadInput(f"model.parametrization={model.parametrization} without model.{key} "
                           f"would be the standard one: give the {key.removeprefix('base_')} of "
                           f"the model at which the learning rate was found")
    kind, plain = ATTENTIONS.get(model.attention), next(iter(ATTENTIONS))
    if "model.attention" not in asked or model.attention == plain:
        return
    if getattr(kind, "kv_heads", None) in (None, ATTENTIONS[plain].kv_heads):
        return
    heads = CN(**model.to_dict() | SIZES.get(model.model_type, {}))
    if kind.kv_heads(heads) == heads.n_head:
        raise BadInput(f"model.attention={model.attention} with {heads.n_head} heads of keys and "
                       f"values for as many of queries is {plain}: give fewer with "
                       f"model.n_kv_head, or model.attention={plain}")


def check_vocabulary(settings: CN) -> None:
    """Raise BadInput for a vocabulary size that is not the tokenizer's, and for a token that the
    tokenizer does not have."""
    model, tokens = settings.model, ("document_end", "published_padding")
    if model.vocab_size is None and all(getattr(model, name) is None for name in tokens):
        return
    from experiments.corpus.tokenizers import get_tokenizer
    tokenizer = get_tokenizer(settings.data.tokenizer)
    has = f"data.tokenizer={tokenizer.name} has {tokenizer.vocab_size:,} tokens"
    if model.vocab_size not in (None, tokenizer.vocab_size):
        raise BadInput(f"model.vocab_size={model.vocab_size}: the tokenizer decides it, and {has}: "
                       f"leave it out")
    for name in tokens:
        if (getattr(model, name) or 0) >= tokenizer.vocab_size:
            raise BadInput(f"model.{name}={getattr(model, name)}: {has}: give one from 0 to "
                           f"{tokenizer.vocab_size - 1}")
