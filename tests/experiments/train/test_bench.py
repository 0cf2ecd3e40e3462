"""Backends are compared only if they have the same loss; otherwise there is no table."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments.declare.spec import make_spec
from experiments.train.bench import (
    CEILING,
    FULL,
    SDPA_ON_CPU,
    bench,
    check_losses,
    removed,
    variants,
)
from mingpt.patterns.kinds import full
from mingpt.sparse.backends import BACKENDS
from mingpt.utils import BadInput


def spec(*overrides):
    return make_spec(preset="nano", overrides=["--trainer.device=cpu", *overrides])


def test_every_backend_stands_beside_full_and_beside_no_attention():
    rows = variants(spec("--model.schedule=8*").settings)
    assert [row.name for row in rows] == [*BACKENDS, FULL, CEILING]
    assert [row.settings.model.schedule for row in rows] == ["8*"] * len(BACKENDS) + [
        "full", "full"]
    assert [row.settings.model.backend for row in rows] == [*BACKENDS, "auto", "auto"]


def test_a_bench_measures_each_in_turn_and_says_who_refused():
    result = bench(spec("--model.schedule=f 8 8/4"), rounds=5,
                   only=["dense", "banded", "flash", CEILING])
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == ["dense", "flash", "banded", CEILING]
    assert "flash sees all keys, not pattern '8'" in rows["flash"]["refused"]
    assert rows["dense"]["loss"] == pytest.approx(rows["banded"]["loss"], abs=1e-4)
    assert rows[CEILING]["loss"] is None and rows[CEILING]["flops_needed"] is None
    assert (
        rows[CEILING]["flops_counted"]
        < rows["dense"]["flops_needed"]
        < rows["dense"]["flops_counted"]
    )
    assert rows["dense"]["against_dense"] == {"median": 1, "low": 1, "high": 1}
    for name in ("dense", "banded", CEILING):
        row = rows[name]
        assert row["peak_memory_mb"] > 50
        assert 0 < row["step_ms"]["low"] <= row["step_ms"]["median"] <= row["step_ms"]["high"]
        assert row["tokens_per_second"] == pytest.approx(8 * 64 / (row["step_ms"]["median"] / 1e3))
    assert (
        result["rounds"] == 5
        and result["schedule"] == "f 8 8/4"
        and 0 < result["compute_sparsity"] < 1
    )


def test_different_losses_are_an_error_not_a_table():
    check_losses({"dense": 2.0, "banded": 2.00005})
    with pytest.raises(RuntimeError, match="banded"):
        check_losses({"dense": 2.0, "banded": 2.001})
    with pytest.raises(RuntimeError, match="flex"):
        check_losses({"dense": 2.0, "flex": float("nan")})


def test_an_unknown_row_is_refused_with_the_nearest():
    with pytest.raises(BadInput, match="did you mean 'banded'"):
        bench(spec(), only=["band"])


def test_what_no_backend_can_do_is_refused():
    with pytest.raises(BadInput, match="flash sees all keys"):
        bench(spec("--model.schedule=8*"), only=["flash"])


def test_without_attention_every_head_keeps_its_value():
    q, v = torch.randn(2, 6, 5, 4), torch.randn(2, 2, 5, 4)
    assert torch.equal(removed(v, v, v, slopes=None), v)
    assert torch.equal(removed(q, v, v), v.repeat_interleave(3, 1))


@pytest.mark.parametrize("backend, share", [("dense", 1.0), ("flash", (64 + 1) / 2 / 64)])
def test_the_fused_kernels_flops_are_counted_on_a_cpu(backend, share):
    q, k, v = (torch.randn(2, 3, 64, 16, requires_grad=True) for _ in range(3))
    with FlopCounterMode(display=False, custom_mapping=SDPA_ON_CPU) as counter:
        BACKENDS[backend].attend(full(), q, k, v, None, None, 0.0).sum().backward()
    products = 2 + 5     # 2 in the forward; 5 in the backward, which computes the scores again
    assert counter.get_total_flops() == products * 2 * (2 * 3 * 64 * 64 * 16) * share
