"""Backends: each computes the same attention in its own way, and refuses what it cannot do."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_mask

from mingpt.model import GPT, Block, CausalSelfAttention
from mingpt.patterns.kinds import full, parse_pattern, window
from mingpt.sparse.backends import BACKENDS, BackendCase, Dense, fastest, mask_of, masked
from mingpt.sparse.banded import supports
from mingpt.sparse.flex import BLOCK, block_mask
from mingpt.utils import BadInput
from tests.helpers.models import gpt_of

PATTERNS = ["f", "1", "7", "7/3", "b8x2", "s5", "6+g9", "r0.3@1", "12>1/2", "9&s2", "4|s6"]
SCHEDULES = ["full", "f 7", "1 5/3", "b8x1 9+g4", "s6 f", "r0.4@2 9&s2"]


SHAPE = {"n_head": 3, "n_embd": 48, "vocab_size": 19, "block_size": 70}


def gpt(seed=0, **changes):
    return gpt_of(0.1, seed, **{**SHAPE, **changes})


def tokens(T, batch=2):
    return torch.randint(19, (batch, T), generator=torch.Generator().manual_seed(T))


def loss_and_gradients(model, idx):
    loss = model(idx, idx.roll(-1, 1))[1]
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


# -- all are the dense mask ------------------------------------------------------------------------

@pytest.mark.parametrize("T", [1, 5, 37, 70])
@pytest.mark.parametrize("position", ["learned", "rope", "alibi"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_backend_has_the_dense_masks_loss_and_gradients(schedule, position, T):
    idx = tokens(T)
    loss, gradients = loss_and_gradients(gpt(schedule=schedule, position=position,
                                             backend="dense"), idx)
    compared = set()
    for backend in ("auto", "flash", "banded"):
        try:
            model = gpt(schedule=schedule, position=position, backend=backend)
        except BadInput:
            continue
        other, theirs = loss_and_gradients(model, idx)
        assert other.item() == pytest.approx(loss.item(), abs=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(theirs[name], gradient, atol=1e-5, rtol=1e-4,
                                       msg=lambda m: f"{name}: {m}")  # noqa: B023
        compared.add(backend)
    assert compared >= ({"auto"} if "r0.4" in schedule else {"auto", "banded"})
    assert ("flash" in compared) is (schedule == "full" and position != "alibi")


@pytest.mark.parametrize("position", ["learned", "alibi"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_flex_has_the_dense_masks_logits(schedule, position):
    dense, flexible = (gpt(schedule=schedule, position=position, backend=b).eval()
                       for b in ("dense", "flex"))
    with torch.no_grad():
        torch.testing.assert_close(flexible(tokens(37))[0], dense(tokens(37))[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("text", PATTERNS)
def test_flexs_masks_and_its_blocks_are_the_patterns(text):
    pattern, T = parse_pattern(text), 300
    blocks = block_mask(pattern, T, torch.device("cpu"))
    assert torch.equal(create_mask(blocks.mask_mod, 1, 1, T, T, device="cpu")[0, 0],
                       pattern.mask(T))
    side = -(-T // BLOCK)
    whole = torch.zeros(side * BLOCK, side * BLOCK, dtype=torch.bool)
    whole[:T, :T] = pattern.mask(T)
    want = whole.view(side, BLOCK, side, BLOCK).any(3).any(1)
    assert torch.equal(blocks.to_dense()[0, 0].bool(), want), "computed is what has a seen pair"


@pytest.mark.parametrize("backend", ["dense", "flash", "banded", "flex"])
def test_fewer_key_heads_serve_several_query_heads(backend):
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 6, 33, 16), torch.randn(2, 2, 33, 16), torch.randn(2, 2, 33, 16)
    got = BACKENDS[backend].attend(full(), q, k, v, None, None, 0.0)
    want = Dense.attend(full(), q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1), None,
                        None, 0.0)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_dense_with_slopes_and_a_document_mask_is_the_textbook_formula():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 9, 8)
    slopes = torch.rand(4)
    allowed = torch.rand(2, 1, 9, 9).gt(0.5) | torch.eye(9, dtype=torch.bool)
    distance = torch.arange(9)[:, None] - torch.arange(9)
    for s in (None, slopes):
        for a in (None, allowed):
            scores = q @ k.transpose(-2, -1) / 8 ** 0.5 - (0 if s is None
                                                           else s[:, None, None] * distance)
            hidden = ~window(4).mask(9) | (torch.zeros(1, dtype=torch.bool) if a is None else ~a)
            want = scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v
            got = Dense.attend(window(4), q, k, v, s, a, 0.0)
            torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("backend", ["auto", "banded"])
def test_bfloat16_autocast_runs_and_is_close_to_float32(backend):
    model = gpt(schedule="f 7/3", backend=backend, position="alibi")
    loss = model(tokens(70), tokens(70))[1].item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = model(tokens(70), tokens(70))[1]
    narrow.backward()
    assert narrow.item() == pytest.approx(loss, rel=0.02)
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("backend", ["auto", "dense", "banded"])
def test_a_model_can_be_copied_with_its_backend(backend):
    model = gpt(schedule="f 7", backend=backend).eval()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(tokens(20))[0], model(tokens(20))[0])


# -- masks are never stale -------------------------------------------------------------------------

@pytest.mark.parametrize("backend", ["auto", "dense", "banded", "flex"])
def test_a_length_does_not_depend_on_the_lengths_before_it(backend):
    for T in (9, 70, 9, 33, 64, 65, 33):
        model, fresh = (gpt(schedule="7 5/3", backend=b).eval() for b in (backend, "dense"))
        with torch.no_grad():
            for earlier in (70, 3, T):
                logits = model(tokens(earlier))[0]
            seen = torch.stack([p.mask(T) for p in fresh.schedule])
        assert torch.equal(seen, torch.stack([mask_of(p, T, torch.device("cpu"))
                                              for p in fresh.schedule]))
        torch.testing.assert_close(logits, fresh(tokens(T))[0], atol=1e-4, rtol=0)


@given(st.sampled_from(PATTERNS), st.lists(st.integers(1, 150), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_a_mask_is_the_patterns_whatever_was_asked_before(text, lengths):
    for T in lengths:
        assert torch.equal(mask_of(parse_pattern(text), T, torch.device("cpu")),
                           parse_pattern(text).mask(T))


def test_a_mask_first_made_while_sampling_serves_in_training():
    model = gpt(schedule="61 59/2", backend="dense")   # no other test uses these windows
    with torch.inference_mode():
        model(tokens(70))
    loss_and_gradients(model, tokens(70))


# -- what is refused -------------------------------------------------------------------------------

@pytest.mark.parametrize("changes, words", [
    ({"backend": "flash", "schedule": "f 7"},
     "flash sees all keys, not pattern '7': use auto or dense"),
    ({"backend": "flash", "position": "alibi"},
     "flash cannot add the bias that model.position asks for"),
    ({"backend": "flash", "document_end": 3}, "flash cannot apply a document mask"),
    ({"backend": "banded", "document_end": 3}, "banded cannot apply a document mask"),
    ({"backend": "banded", "schedule": "f r0.1@7"}, "banded has no form for pattern 'r0.1@7'"),
    ({"backend": "flex", "attn_pdrop": 0.1},
     "flex cannot drop attention weights, as model.attn_pdrop=0.1 asks"),
    ({"backend": "flex", "document_end": 3}, "flex cannot apply a document mask"),
    ({"backend": "bandit"}, "did you mean 'banded'"),
    ({"schedule": "f 7 f"}, "of the model's 2 layers"),
    ({"schedule": "lms_mian"}, "did you mean 'lms_main'"),
    ({"schedule": "0*"}, "the least is 1"),
])
def test_what_a_backend_cannot_do_is_refused_when_the_model_is_built(changes, words):
    with pytest.raises(BadInput, match=words) as error:
        gpt(**changes)
    assert "\n" not in str(error.value)


def test_flash_takes_a_window_as_long_as_the_block():
    assert gpt(backend="flash", schedule="70*")(tokens(70))[0].shape == (2, 70, 19)


def test_flex_refuses_to_train_on_a_cpu_and_still_evaluates_there():
    model = gpt(backend="flex", schedule="f 7")
    with pytest.raises(BadInput, match="no backward on cpu: use auto or banded"):
        model(tokens(20))
    with torch.no_grad():
        assert model(tokens(20))[0].isfinite().all()


@pytest.mark.parametrize("backend", ["flash", "banded", "flex"])
def test_a_document_mask_that_comes_unannounced_is_refused(backend):
    part = gpt(backend=backend).transformer.h[0].eval()
    with torch.no_grad(), pytest.raises(BadInput, match=f"{backend} takes no allowed"):
        part(torch.randn(1, 6, 48), torch.ones(1, 1, 6, 6, dtype=torch.bool))


# -- auto ------------------------------------------------------------------------------------------

def test_auto_takes_flash_for_what_is_full_and_banded_for_a_narrow_window_of_a_long_text():
    assert fastest(full(), 1024, BackendCase()) == fastest(window(64), 64, BackendCase()) == "flash"
    assert fastest(window(64), 1024, BackendCase()) == fastest(window(256), 2048,
                                                               BackendCase()) == "banded"
    assert fastest(window(4), 32, BackendCase()) == "dense"       # too short to be worth it
    assert fastest(window(64), 2048, BackendCase(cuda=True, flex=True)) == "flex"
    assert fastest(parse_pattern("r0.5@1"), 512, BackendCase()) == "dense"


def test_auto_decides_by_what_was_measured_on_this_kind_of_processor():
    narrow, avx512 = window(48), BackendCase(processor=("AVX512", 1))
    assert fastest(narrow, 96, avx512) == "dense" and fastest(narrow, 128, avx512) == "banded"
    assert fastest(window(50), 128, BackendCase(processor=("AVX2", 2))) == "dense"
    assert fastest(full(), 256, BackendCase(biased=True)) == "dense"
    assert fastest(full(), 256, BackendCase(drops=True)) == "banded"


def test_a_bias_and_a_mask_still_use_torchs_fused_kernel():
    q, k, v = (torch.randn(2, 3, 20, 8, requires_grad=True) for _ in range(3))
    seen, slopes = mask_of(window(7), 20, q.device), torch.tensor([0.5, 0.0, 2.0])
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):       # no other kernel may be taken
        got = masked(q, k, v, seen, slopes, 0.0)
    scores = q @ k.mT / 8**0.5 - slopes[:, None, None] * (torch.arange(20)[:, None]
                                                         - torch.arange(20))
    expected = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@given(st.sampled_from(PATTERNS), st.integers(1, 600), st.builds(BackendCase, *[st.booleans()] * 4))
@settings(max_examples=200, deadline=None)
def test_auto_takes_only_what_can_do_it(text, T, case):
    pattern, name = parse_pattern(text), fastest(parse_pattern(text), T, case)
    if name == "flash":
        assert pattern.is_full(T) and not case.biased
    elif name == "banded":
        assert supports(pattern)
    elif name == "flex":
        assert case.flex and case.cuda and not case.drops
    else:
        assert name == "dense"


def test_auto_and_a_document_mask_are_dense():
    idx = tokens(40)
    losses = [gpt(schedule="f 7", backend=b, document_end=3)(idx, idx)[1].item()
              for b in ("auto", "dense")]
    assert losses[0] == losses[1]


# -- the schedule in the model ---------------------------------------------------------------------

def test_every_layer_has_its_own_pattern():
    model = gpt(schedule="f 7/3")
    assert [str(block.attn.pattern) for block in model.transformer.h] == [
        "f", "7/3"] == list(map(str, model.schedule))


def test_parts_built_alone_take_their_layers_pattern():
    config = GPT.get_default_config()
    config.n_embd, config.n_head, config.block_size, config.schedule = 12, 3, 5, "sssl:2"
    x = torch.randn(2, 5, 12)
    assert str(CausalSelfAttention(config).pattern) == "2"
    assert str(Block(config, layer=3).attn.pattern) == "f"
    assert Block(config, layer=3).eval()(x).shape == x.shape


def test_flops_count_the_patterns_keys_exactly():
    T, C = 70, 48
    wide, narrow = gpt(), gpt(schedule="7/3 s5")
    skipped = sum(full().count(T) - pattern.count(T) for pattern in narrow.schedule)
    assert wide.flops_per_token() - narrow.flops_per_token() == pytest.approx(
        3 * 4 * C * skipped / T, rel=1e-9)
    assert narrow.flops_per_token(pattern=full()) == pytest.approx(
        wide.flops_per_token(), rel=1e-12)
    assert wide.transformer.h[0].attn.score_flops(T) == 2 * 2 * C * (T + 1) / 2


def test_a_model_keeps_its_schedule_when_the_file_has_gone(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"schedules": {"a": {"type": "progressive", "start_window": 8, "end_window": '
                    '4, "n_layer": 2}}}')
    model = gpt(schedule=f"{path}:a")
    path.unlink()
    assert str(gpt(**{**model.config.to_dict(),
                      "model_type": None}).schedule) == str(model.schedule) == "8 4"


def test_another_depth_says_so_on_the_schedule_and_prints_nothing():
    assert "written for 12 layers" in gpt(schedule="lms_main").schedule.note
    assert gpt(schedule="f 7").schedule.note is None
