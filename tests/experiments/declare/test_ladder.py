"""[ladder] and [rung] in a study's file: what they may hold."""

import pytest

from experiments.declare.ladder import read_ladder, read_place
from mingpt.utils import BadInput

SIZES = [{"model": {"n_embd": 32}}, {"model.n_embd": 64}, "laptop"]
PLACE = {"ladder": "scale", "number": 1, "of": 1, "parameters": 9, "tokens_per_parameter": 20,
         "held_out": False, "target": 4.0, "studies": ["scale-9"]}


def test_a_ladder_has_its_defaults_and_flat_sizes():
    ladder = read_ladder({"rungs": SIZES}, {}, [0, 1, 2], "x")
    assert ladder.rungs == ({"model.n_embd": 32}, {"model.n_embd": 64}, "laptop")
    assert (ladder.tokens_per_parameter, ladder.lr, ladder.seeds, ladder.hold_out, ladder.target
            ) == (20, "power", (3, 3, 3), 1, 4.0)
    assert read_ladder(None, {}, [0], "x") is None


@pytest.mark.parametrize("table, study, said", [
    ([], {}, "is a table"), ({}, {}, "2 to 20 sizes"), ({"rungs": ["laptop"]}, {}, "2 to 20 sizes"),
    ({"rungs": [1, 2]}, {}, "2 to 20 sizes"), ({"rung": SIZES}, {}, "'rung'"),
    ({"rungs": [*SIZES[:2], {"trainer.max_iters": 3}]}, {}, "rungs 3: trainer.max_iters follows"),
    ({"rungs": SIZES, "lr": "powr"}, {}, "did you mean 'power'"),
    ({"rungs": SIZES, "lr": "tuned"}, {}, "grid"),
    ({"rungs": SIZES, "grid": [1e-3, 2e-3, 4e-3]}, {}, "belongs to lr"),
    ({"rungs": SIZES, "lr": "tuned", "grid": [1e-3, 2e-3]}, {}, "at least three"),
    ({"rungs": SIZES, "seeds": [3, 3]}, {}, "a list of 3"),
    ({"rungs": SIZES, "seeds": 4}, {}, "study's 3 seeds"),
    ({"rungs": SIZES, "seeds": [2, 3, 3]}, {}, "must not rise"),
    ({"rungs": SIZES, "hold_out": 2}, {}, "hold_out is a whole number from 0 to 1"),
    ({"rungs": SIZES, "target": 11}, {}, "from 1 to 10"),
    ({"rungs": SIZES, "target": float("nan")}, {}, "from 1 to 10"),
    ({"rungs": SIZES, "tokens_per_parameter": True}, {}, "is a number"),
    ({"rungs": SIZES}, {"lr": [1e-3]}, "lr = \"tuned\""), ({"rungs": SIZES}, {"stop": [2]}, "stop"),
])
def test_what_means_nothing_is_refused(table, study, said):
    with pytest.raises(BadInput, match=f"(?s)^x.*{said}"):
        read_ladder(table, study, [0, 1, 2], "x")


def test_a_place_is_read_with_its_prediction():
    effect = {"effect": -0.1, "low": -0.2, "high": 0.0}
    place = read_place(PLACE | {"held_out": True, "rests_on": "ab", "prediction": {"r": effect}},
                       "x")
    assert place.prediction["r"].low == -0.2 and place.studies == ("scale-9",)


@pytest.mark.parametrize("broken", [
    [], {"ladder": 3}, {"number": 2}, {"of": 10**9}, {"studies": [1]}, {"prediction": []},
    {"prediction": {"r": {"effect": "x", "low": 0, "high": 0}}}, {"held_out": 1},
    {"prediction": {"r": {"effect": float("nan"), "low": 0, "high": 0}}}, {"more": 1},
    {"target": 10**400}, {"rests_on": None}])
def test_a_place_that_no_ladder_writes_is_refused(broken):
    with pytest.raises(BadInput, match="as a ladder writes it"):
        read_place(PLACE | broken if isinstance(broken, dict) else broken, "x")
