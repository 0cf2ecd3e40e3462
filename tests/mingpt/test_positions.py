"""Positions: what a rotation, a slope, or no position at all must do to the scores."""

import pytest
import torch

from mingpt.model import GPT
from mingpt.patterns.kinds import full
from mingpt.positions import POSITIONS, _Rotation, alibi_slopes
from mingpt.sparse.backends import Dense, same_document
from mingpt.utils import BadInput
from tests.helpers import models


def config_of(position, n_head=2, n_embd=16, block_size=32, **changes):
    return models.config_of(n_head=n_head, n_embd=n_embd, block_size=block_size, vocab_size=23,
                            position=position, **changes)


def rope(**changes):
    return POSITIONS["rope"](config_of("rope", **changes))


def test_rope_scores_depend_on_the_distance_alone():
    # the same query and key at every position
    q, k = torch.randn(2, 1, 1, 1, 8).expand(2, 1, 1, 32, 8)
    q, k = rope().rotate(q, k)
    scores = (q @ k.transpose(-2, -1))[0, 0]                   # (32, 32)
    for distance in range(-31, 32):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=0)
    assert scores[0].std() > 1e-2   # the scores do depend on the distance


@pytest.mark.parametrize("base", [10_000.0, 500.0])
def test_rope_is_a_multiplication_of_complex_numbers(base):
    x = torch.randn(3, 2, 32, 8)
    got, _ = rope(rope_base=base).rotate(x, x)
    place, pair = (torch.arange(32, dtype=torch.float64)[:, None],
                   torch.arange(4, dtype=torch.float64))
    turn = torch.polar(torch.ones(32, 4, dtype=torch.float64), place * base ** (-2 * pair / 8))
    # half-split layout: i is paired with i + hs/2
    want = torch.complex(x[..., :4].double(), x[..., 4:].double()) * turn
    torch.testing.assert_close(got.double(), torch.cat((want.real, want.imag), -1), atol=1e-5,
                               rtol=0)


def test_rope_is_llamas_in_transformers():
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    from transformers import LlamaConfig
    theirs = llama.LlamaRotaryEmbedding(LlamaConfig(hidden_size=16, num_attention_heads=2,
                                                    head_dim=8))
    q, k = torch.randn(2, 3, 2, 32, 8)
    cos, sin = theirs(q, torch.arange(32).unsqueeze(0))
    for got, want in zip(rope().rotate(q, k), llama.apply_rotary_pos_emb(q, k, cos, sin),
                         strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_rope_turns_without_stretching_and_leaves_the_first_place_alone():
    q = torch.randn(1, 2, 32, 8)
    turned, _ = rope().rotate(q, q)
    torch.testing.assert_close(turned.norm(dim=-1), q.norm(dim=-1))
    assert torch.equal(turned[:, :, 0], q[:, :, 0])


def test_rope_refuses_an_odd_head_and_says_why():
    with pytest.raises(BadInput, match="12/4 = 3 must be even"):
        GPT(config_of("rope", n_head=4, n_embd=12))


@pytest.mark.parametrize("n_head", [1, 2, 3, 6, 8, 12, 16, 25])
def test_alibi_slopes_are_blooms_in_transformers(n_head):
    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    theirs = bloom.build_alibi_tensor(torch.ones(1, 2, dtype=torch.long), n_head,
                                      torch.float32)[:, 0, 1]
    torch.testing.assert_close(torch.tensor(alibi_slopes(n_head)), theirs)


def test_alibi_takes_slope_times_distance_from_the_scores():
    slopes = POSITIONS["alibi"](config_of("alibi", n_head=4)).slopes
    assert slopes.tolist() == [2 ** -2, 2 ** -4, 2 ** -6, 2 ** -8]
    q, k, v = (torch.zeros(1, 4, 10, 8), torch.zeros(1, 4, 10, 8),
               torch.eye(10, 8).expand(1, 4, 10, 8))
    # v is one-hot, so the output is the first 8 weights of each query
    weights = Dense.attend(full(), q, k, v, slopes, None, 0.0)[0]
    for head, slope in enumerate(slopes.tolist()):
        want = torch.tensor([-slope * (7 - j) for j in range(8)]).softmax(0)
        torch.testing.assert_close(weights[head, 7], want)


def test_only_a_learned_table_knows_absolute_places():
    x = torch.randint(23, (1, 16), generator=torch.Generator().manual_seed(0))
    for position, changes in (("learned", True), ("rope", False), ("alibi", False),
                              ("none", False)):
        model = perturbed(config_of(position, document_end=0))
        # the same text after another document
        later = torch.cat((torch.tensor([[5, 9, 0]]), x), 1)
        moved = (model(x)[0] - model(later)[0][:, 3:]).abs().max().item()
        assert (moved > 1e-2) is changes, position
        assert moved < 1e-4 or changes


def test_without_positions_only_the_set_of_earlier_tokens_counts():
    x = torch.tensor([[1, 2, 3, 4, 5]])
    swapped = torch.tensor([[3, 2, 1, 4, 5]])
    for position, blind in (("none", True), ("alibi", False), ("rope", False), ("learned", False)):
        # one layer: a second layer could use what the first one saw
        model = perturbed(config_of(position, n_layer=1))
        moved = (model(x)[0] - model(swapped)[0])[:, -1].abs().max().item()
        assert (moved < 1e-5) is blind, position


def perturbed(config):
    torch.manual_seed(0)
    model = GPT(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model


# --------------------------------------------------------------------------------------------------
# attention inside documents

END = 22
DOCUMENTS = [[1, 2, 3, END], [END], [4, 5, 6, 7, 8, END], [9, 10, 11]]
PACKED = torch.tensor([sum(DOCUMENTS, [])])


def test_the_end_of_a_document_belongs_to_it():
    seen = same_document(torch.tensor([[5, END, 6, 7, END, 8]]), END)[0, 0]
    assert ["".join(".x"[int(s)] for s in row) for row in seen] == [
        "xx....", "xx....", "..xxx.", "..xxx.", "..xxx.", ".....x"]


@pytest.mark.parametrize("position", POSITIONS)
def test_a_token_never_sees_an_earlier_document(position):
    model = perturbed(config_of(position, document_end=END))
    plain = perturbed(config_of(position))
    edited = PACKED.clone()
    edited[0, 1] = 12   # edit a token of the first document
    moved = (model(edited)[0] - model(PACKED)[0])[0].abs().amax(-1)
    assert (moved[1:4] > 1e-5).all()
    assert not moved[4:].any()
    # without the mask, later documents do change
    assert (plain(edited)[0] - plain(PACKED)[0])[0, 4:].abs().amax() > 1e-4


@pytest.mark.parametrize("position", ["rope", "alibi", "none"])
def test_a_document_reads_as_when_it_stands_alone(position):
    model = perturbed(config_of(position, document_end=END))
    packed = model(PACKED)[0][0]
    start = 0
    for document in DOCUMENTS:
        alone = model(torch.tensor([document]))[0][0]
        torch.testing.assert_close(packed[start:start + len(document)], alone, atol=1e-4, rtol=0)
        start += len(document)


def test_ropes_gradient_is_its_derivative_also_where_a_share_is_turned():
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    angle = torch.randn(4, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: _Rotation.apply(x, angle.cos(), angle.sin()), (x,))
    turned = _Rotation.apply(x, angle.cos(), angle.sin())
    torch.testing.assert_close(turned[..., 4:], x[..., 4:])
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
