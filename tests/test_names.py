"""What an arm is called whose parts were chosen one by one."""

import pytest

from experiments.arms import NAME
from experiments.names import LONGEST, extended, schedule_name
from mingpt.layer_schedules import NAMED


@pytest.mark.parametrize("text, name", [
    ("lms_main", "lms_main"), ("96*", "window96"), ("96/4*", "window96_dilation4"), ("sssl", "sssl"),
    ("sssl:128", "sssl-128"), ("f 256*2 f", "f-256x2-f"), ("f 96/4* f", "f-96d4x-f"), ("256>1/2*", "256to1d2x"),
    ("progressive:512>16@6", "progressive-512to16at6"), ("(64|s8)&b16x2*", "64ors8.andb16x2x"), ("64+g64*", "64+g64x"),
    ("path/to/study000.json:half", "study000.half"), ("mine.json", "mine"), ("my own.json:a/b c", "my-own.adb-c"),
])
def test_a_schedule_names_a_file(text, name):
    assert schedule_name(text) == name
    assert NAME.fullmatch(name)


@pytest.mark.parametrize("name", NAMED)
def test_a_named_schedule_keeps_its_name(name):
    assert schedule_name(name) == name


def test_long_schedules_have_names_of_bearable_length_and_their_own():
    texts = [" ".join([f"{w}/3"] * 12 + ["f", last]) for w in (128, 256) for last in ("8", "9")]
    names = {schedule_name(text) for text in texts}
    assert len(names) == 4
    assert max(map(len, names)) <= LONGEST


def test_parts_join_after_the_flags_slot_members_first():
    assert extended("rope", {"model.schedule": "96/4*"}) == "rope_window96_dilation4"
    assert extended("baseline", {"model.schedule": "lms_main"}) == "lms_main"
    assert extended("rope", {"model.schedule": "8*", "model.mlp": "geglu"}) == "rope_geglu_window8"
    assert extended("rope", {"trainer.optimizer": "muon", "model.block": "post"}) == "rope_muon_post"
    assert extended("baseline", {}) == "baseline"
    assert extended("baseline", {"model.qk_norm": True}) == "baseline"   # an option of a member names nothing
