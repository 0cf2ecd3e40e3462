"""Members of code files have no reference. The audit asks what every part must do, finds planted
faults by name, and passes what is right."""

import pytest

from experiments.audit import audit, first_failure
from experiments.declare import members
from experiments.declare.spec import make_spec
from experiments.train.seeded import build_model
from tests.helpers.planted_code import CORRECT, FAULTS, HEAD

SMALL = ("--model.n_layer=2", "--model.n_head=2", "--model.n_embd=16", "--model.block_size=32",
         "--model.resid_pdrop=0", "--model.embd_pdrop=0", "--model.attn_pdrop=0")


class Corpus:
    vocab_size, eot = 33, 32


@pytest.fixture
def audited(tmp_path):
    """A function: the text of a code file, overrides → the audit of the model that uses it."""
    def run(text, overrides):
        path = tmp_path / "mine.py"
        path.write_text(HEAD + text)
        members.load([path])
        settings = make_spec("nano", overrides=[*SMALL, *overrides]).settings
        return audit(build_model(settings, Corpus, seed=0), settings.trainer)
    yield run
    members.forget()


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_a_users_member_is_found_and_named(name, audited):
    text, overrides, claim, words = FAULTS[name]
    result = audited(text, overrides)
    assert not result["passed"]
    seen = result["checks"][claim]
    assert seen is not True and words in seen, result["checks"]
    assert "\n" not in first_failure(result)


@pytest.mark.parametrize("name", CORRECT)
def test_a_correct_member_of_a_user_passes(name, audited):
    text, overrides = CORRECT[name]
    result = audited(text, overrides)
    assert result["passed"], first_failure(result)


def test_an_error_in_a_users_forward_is_told_with_file_and_line(audited, tmp_path):
    result = audited("""
class Own(Norm):
    def __init__(self, dim, config):
        super().__init__()

    def forward(self, x):
        return x @ torch.ones(3, 3)

NORMS = {"own": Own}
""", ["--model.norm=own"])
    line = HEAD.count("\n") + 7
    assert f"{tmp_path / 'mine.py'}:{line}: RuntimeError" in first_failure(result)


def test_members_that_have_a_reference_are_not_asked_twice(audited):
    checks = audited("""
class Own(Norm):
    def __init__(self, dim, config):
        super().__init__()

    def forward(self, x):
        return x

NORMS = {"own": Own}
""", [])["checks"]
    assert "no part writes into its input" not in checks
    assert "the optimizer obeys the rate and resumes exactly" not in checks
