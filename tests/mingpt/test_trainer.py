"""The training loop: its events; and each option changes what it declares, and nothing else."""

import copy
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.utils.data import TensorDataset

from mingpt.model import GPT
from mingpt.trainer import Trainer
from mingpt.utils import IGNORE_INDEX, BadInput, CfgNode


def tiny_gpt(**changes):
    config = GPT.get_default_config()
    config.model_type, config.n_layer, config.n_head, config.n_embd = None, 2, 2, 16
    config.vocab_size, config.block_size = 11, 8
    config.embd_pdrop = config.resid_pdrop = config.attn_pdrop = 0.0
    config.merge_from_dict(changes)
    model = GPT(config)
    model.init_weights(0)
    return model


def counting():
    rows = (torch.arange(9) + torch.arange(44)[:, None]) % 11
    return TensorDataset(rows[:, :-1], rows[:, 1:])


class InOrder(Trainer):
    """Batches in the order of the data, so that two batches of B rows equal one of 2B."""

    def batches(self):
        x, y = self.train_dataset.tensors
        size, start = self.config.batch_size, 0
        while True:
            rows = torch.arange(start, start + size) % len(x)
            yield x[rows], y[rows]
            start += size


def trainer_of(model=None, cls=InOrder, **changes):
    config = Trainer.get_default_config()
    config.merge_from_dict({"device": "cpu", "num_workers": 0, "max_iters": 3, "batch_size": 4,
                            **changes})
    return cls(config, model or tiny_gpt(), counting())


def losses_of(trainer):
    losses = []
    trainer.add_callback("on_batch_end", lambda t: losses.append(t.loss.item()))
    trainer.run()
    return losses


def weights_of(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


# --------------------------------------------------------------------------------------------------
# minGPT's interface


def test_a_batch_ends_before_the_iteration_is_counted():
    trainer, events = trainer_of(), []
    for event in ("on_train_start", "on_batch_end", "on_iteration_end"):
        trainer.add_callback(event, lambda t, event=event: events.append((event, t.iter_num)))
    trainer.run()
    assert events == [("on_train_start", 0), ("on_batch_end", 0), ("on_iteration_end", 1),
                      ("on_batch_end", 1),
                      ("on_iteration_end", 2), ("on_batch_end", 2), ("on_iteration_end", 3)]
    assert trainer.iter_num == 3


def test_callbacks_add_up_and_setting_one_replaces_them():
    trainer, calls = trainer_of(), []
    trainer.add_callback("on_batch_end", lambda t: calls.append("a"))
    trainer.add_callback("on_batch_end", lambda t: calls.append("b"))
    trainer.trigger_callbacks("on_batch_end")
    assert calls == ["a", "b"]
    trainer.set_callback("on_batch_end", lambda t: calls.append("c"))
    trainer.trigger_callbacks("on_batch_end")
    trainer.trigger_callbacks("an event that nobody waits for")
    assert calls == ["a", "b", "c"]
    assert set(trainer.callbacks) == {"on_batch_end"}


def test_a_callback_finds_what_mingpts_callbacks_find():
    trainer = trainer_of()
    assert (trainer.iter_num, trainer.iter_time, trainer.iter_dt, trainer.optimizer) == (
        0, 0.0, 0.0, None)

    def look(t):
        assert t.loss.dim() == 0
        assert t.loss.item() > 0
        assert isinstance(t.optimizer, torch.optim.AdamW)
        assert t.device == "cpu"
        assert t.iter_time > 0
        assert t.iter_num == 0 or t.iter_dt > 0
        assert t.model.training

    trainer.set_callback("on_batch_end", look)
    trainer.run()


def test_training_runs_in_train_mode_and_a_second_run_starts_again():
    trainer, modes = trainer_of(), []
    trainer.model.eval()
    trainer.add_callback("on_batch_end", lambda t: modes.append(t.model.training))
    first, second = losses_of(trainer), losses_of(trainer)
    assert trainer.iter_num == 3
    assert modes == [True] * 6
    assert (len(first), len(second)) == (6, 3)   # the first callback is still registered
    assert second[0] != first[0]                 # the trained weights are kept too


def test_a_callback_may_stop_an_endless_run():
    trainer = trainer_of(max_iters=None)
    trainer.add_callback("on_iteration_end", lambda t: setattr(t, "stop", t.iter_num == 4))
    assert len(losses_of(trainer)) == 4


def test_a_resumed_run_starts_where_its_callback_says():
    trainer = trainer_of(max_iters=10)
    trainer.add_callback("on_train_start", lambda t: setattr(t, "iter_num", 7))
    assert len(losses_of(trainer)) == 3


def test_a_trainer_config_of_mingpts_settings_alone_is_enough():
    config = CfgNode(device="cpu", num_workers=0, max_iters=2, batch_size=4, learning_rate=3e-4,
                     betas=(0.9, 0.95), weight_decay=0.1, grad_norm_clip=1.0)
    Trainer(config, tiny_gpt(), counting()).run()
    bare = CfgNode(learning_rate=1e-3, betas=[0.8, 0.9], weight_decay=0.2)
    groups = tiny_gpt().configure_optimizers(bare).param_groups
    assert [g["weight_decay"] for g in groups] == [0.2, 0.0]
    assert {g["betas"] for g in groups} == {(0.8, 0.9)}


def test_the_global_seed_sets_the_order_of_the_data():
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model = tiny_gpt()
        runs.append(losses_of(trainer_of(model, cls=Trainer)))
    assert runs[0] == runs[1] != runs[2]


def test_worker_processes_change_nothing_but_who_fetches():
    runs = []
    for workers in (0, 2):
        torch.manual_seed(0)
        runs.append(losses_of(trainer_of(tiny_gpt(), cls=Trainer, num_workers=workers)))
    assert runs[0] == runs[1]


# --------------------------------------------------------------------------------------------------
# options


def test_two_batches_accumulated_are_one_of_twice_the_size():
    whole, halves = (trainer_of(batch_size=8, max_iters=5),
                     trainer_of(batch_size=4, accumulation_steps=2, max_iters=5))
    assert losses_of(halves) == pytest.approx(losses_of(whole), abs=1e-6)
    torch.testing.assert_close(weights_of(halves), weights_of(whole), atol=1e-5, rtol=0)
    assert halves.grad_norm.item() == pytest.approx(whole.grad_norm.item(), rel=1e-4)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_accumulation_is_the_big_batch_however_targets_are_masked(data):
    """One batch of 8 rows is compared with the same rows in parts. Some parts may hold only
    padding."""
    kept = data.draw(arrays(bool, (8, 8)).filter(lambda m: m.any()), label="targets that count")
    hidden = data.draw(st.sampled_from([None, 0, 1]), label="a part of padding alone")
    if hidden is not None:
        kept[2 * hidden:2 * hidden + 2] = False
    model = tiny_gpt()
    steps = {}
    for parts in (1, 2, 4, 8):
        trainer = trainer_of(copy.deepcopy(model), batch_size=8 // parts, accumulation_steps=parts,
                             max_iters=1)
        x, y = trainer.train_dataset.tensors
        masked = y[:8].masked_fill(~torch.from_numpy(kept), IGNORE_INDEX)
        trainer.train_dataset = TensorDataset(x[:8], masked)
        trainer.run()
        steps[parts] = trainer
    assert {trainer.targets for trainer in steps.values()} == {int(kept.sum())}
    if not kept.any():
        assert all(trainer.loss.isnan() for trainer in steps.values())
        return
    for trainer in steps.values():
        assert trainer.loss.item() == pytest.approx(steps[1].loss.item(), abs=1e-6)
        assert trainer.grad_norm.item() == pytest.approx(steps[1].grad_norm.item(), rel=1e-4)
        torch.testing.assert_close([p.grad for p in trainer.model.parameters()],
                                   [p.grad for p in steps[1].model.parameters()], atol=1e-6,
                                   rtol=1e-4)


def test_gradients_are_clipped_to_the_norm_that_is_reported():
    seen = {}
    for clip in (None, 0, 1e-3, 1e3):
        trainer = trainer_of(max_iters=1, grad_norm_clip=clip)
        trainer.run()
        norm = torch.stack([p.grad.norm() for p in trainer.model.parameters()]).norm().item()
        seen[clip] = (trainer.grad_norm.item(), norm)
    # the reported norm is the one before clipping
    assert len({round(before, 6) for before, _ in seen.values()}) == 1
    assert seen[1e-3][1] == pytest.approx(1e-3, rel=1e-2)
    # None and 0 do not clip
    assert seen[None][1] == pytest.approx(seen[None][0]) and seen[0] == seen[None]
    assert seen[1e3][1] == pytest.approx(seen[None][0])


def test_every_step_takes_the_schedules_rate():
    trainer, rates = trainer_of(max_iters=6, warmup_steps=2, lr_schedule="linear",
                                min_lr_ratio=0.0), []
    trainer.add_callback(
        "on_batch_end", lambda t: rates.append([t.lr] + [g["lr"] for g in t.optimizer.param_groups])
    )
    trainer.run()
    want = [1 / 2, 1, 1, 2 / 3, 1 / 3, 0]
    assert [r[0] / 3e-4 for r in rates] == pytest.approx(want)
    assert all(len(set(r)) == 1 for r in rates)


def test_weight_decay_shrinks_the_weights_of_linear_layers_only():
    model = tiny_gpt()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = model.configure_optimizers(CfgNode(learning_rate=0.1, betas=(0.9, 0.95),
                                                   weight_decay=0.5))
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        shrinks = p.dim() == 2 and "wte" not in name and "wpe" not in name
        torch.testing.assert_close(p.detach(), before[name] * (0.95 if shrinks else 1))


def test_frozen_weights_stay_and_stand_in_no_group():
    model = tiny_gpt()
    model.transformer.wte.requires_grad_(False)
    before = model.transformer.wte.weight.clone()
    trainer = trainer_of(model, weight_decay=0.5)
    trainer.run()
    assert torch.equal(model.transformer.wte.weight, before)
    assert not any(p is model.transformer.wte.weight for g in trainer.optimizer.param_groups
                   for p in g["params"])


def test_bfloat16_autocast_runs_close_to_float32_and_keeps_float32_weights():
    wide, narrow = (losses_of(trainer_of(max_iters=2, dtype=dtype))
                    for dtype in ("float32", "bfloat16"))
    assert narrow == pytest.approx(wide, rel=0.02)
    assert narrow != wide
    for changes in ({"position": "rope", "norm": "rmsnorm", "mlp": "swiglu"},
                    {"position": "alibi", "qk_norm": True}):
        trainer = trainer_of(tiny_gpt(**changes), max_iters=2, dtype="bfloat16")
        assert all(torch.tensor(losses_of(trainer)).isfinite())
        assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


def test_an_unknown_dtype_is_refused_with_the_nearest():
    with pytest.raises(BadInput, match="trainer.dtype='bfloat15': did you mean 'bfloat16'"):
        trainer_of(dtype="bfloat15").run()


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")),
                    reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("slots", [{}, {"position": "rope", "norm": "rmsnorm", "mlp": "swiglu"}])
def test_a_compiled_model_has_the_same_losses_and_the_same_state(slots):
    plain, compiled = (trainer_of(tiny_gpt(n_layer=1, **slots), compile=on) for on in (False, True))
    assert losses_of(compiled) == pytest.approx(losses_of(plain), abs=1e-5)
    assert list(compiled.model.state_dict()) == list(plain.model.state_dict())


@pytest.mark.parametrize("slots", [{}, {"position": "rope", "norm": "rmsnorm", "mlp": "swiglu",
                                        "logit_softcap": 9.0}])
def test_no_step_waits_for_the_device(slots, monkeypatch):
    """On the meta device, tensors have no values, so code that needs one (.item() or an if) fails.
    On a GPU it would wait for the device."""
    monkeypatch.setattr(GPT, "configure_optimizers",
                        lambda gpt, config: torch.optim.SGD(gpt.parameters()))
    trainer = trainer_of(tiny_gpt(**slots), device="meta", max_iters=2, accumulation_steps=2)
    trainer.run()
    assert trainer.iter_num == 2 and trainer.loss.is_meta and trainer.grad_norm.is_meta
    with pytest.raises(RuntimeError):
        trainer.loss.item()
