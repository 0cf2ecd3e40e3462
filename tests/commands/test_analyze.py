"""lab.py analyze: counts are exact, speed-ups are measured or left out, and the attention weights
are those of the trained model."""

import contextlib
import json
import math
import re

import numpy as np
import pytest
import torch

import lab
from experiments.analysis.describe import describe
from experiments.analysis.report import UNTIMED
from experiments.analysis.subjects import PAIRS, pair, read, scheduled
from experiments.analysis.timing import chosen_ways, measure
from experiments.analysis.trained import attention_of, coarse, entropy, watched
from experiments.figures.masks import shares
from mingpt.model import GPT
from mingpt.patterns.kinds import parse_pattern
from mingpt.utils import BadInput

SMALL = ["--model.n_head=2", "--model.n_embd=32"]
# study 003's eight pairs, in percent
PUBLISHED = {256: [19.1, 12.8, 29.7, 32.9, 35.8, 39.8, 42.6, 49.6],
             512: [42.4, 28.4, 49.7, 55.2, 53.6, 59.5, 57.7, 67.2]}


def tiny(**settings):
    """An untrained model of two layers, block 32."""
    config = GPT.get_default_config()
    config.merge_from_dict({"model_type": None, "n_layer": 2, "n_head": 2, "n_embd": 16,
                            "vocab_size": 40,
                            "block_size": 32, **settings})
    torch.manual_seed(0)
    with contextlib.redirect_stdout(None):
        return GPT(config).eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The OUT folder of a nano run of a few steps, named turned.s0."""
    out = tmp_path_factory.mktemp("trained")
    text = out / "text.txt"
    text.write_text("".join(f"Line {n}: the quick brown fox jumps over dog number {n * n}.\n\n"
                            for n in range(2000)))
    assert lab.main(["train", "--preset", "nano", "--data", str(text), "--max-iters", "20",
                     "--out", str(out),
                     "--device", "cpu", "-r", "--arm", "turned", "--window", "16",
                     f"--data.cache={out / 'cache'}"]) == 0
    return out


@pytest.mark.parametrize("T", PUBLISHED)
def test_the_eight_pairs_have_the_published_sparsities(T):
    found = [100 * pair(w, d, T).schedule.sparsity(T) for w, d in PAIRS]
    assert found == pytest.approx(PUBLISHED[T], abs=0.06)


def test_a_description_counts_exactly():
    row = describe(pair(4, 3, 16, overrides=SMALL))
    mask = parse_pattern("4/3").mask(16).numpy()
    keys = mask.sum(1)
    assert row["density"] == pytest.approx(mask.sum() / (16 * 17 / 2))
    assert (
        row["density"]
        == pytest.approx(1 - row["sparsity"])
        == pytest.approx(1 / row["ideal_speedup"])
    )
    assert row["keys_per_query"] == {"min": keys.min(), "mean": pytest.approx(keys.mean()),
                                     "max": keys.max()}
    assert row["layers"][0]["reach"] == max(i - j for i in range(16)
                                            for j in range(16) if mask[i, j])
    through = np.linalg.matrix_power(mask.astype(float), 8)[-1] > 0
    assert row["receptive_field"]["positions"] == through.sum()
    assert row["receptive_field"]["farthest"] == 15 - through.argmax()
    assert 0 < row["compute_sparsity"] < row["sparsity"]


def test_a_receptive_field_grows_layer_by_layer():
    row = describe(scheduled("3*", 16, layers=4, overrides=SMALL))
    assert [layer["receptive_field"]["farthest"] for layer in row["layers"]] == [2, 4, 6, 8]
    assert [layer["reach"] for layer in row["layers"]] == [2] * 4


def test_full_attention_saves_nothing():
    row = describe(scheduled("full", 16, layers=2, overrides=SMALL))
    assert (row["sparsity"], row["compute_sparsity"], row["ideal_speedup"]) == (0, 0, 1)


def test_speedups_are_ratios_of_what_was_timed():
    subjects = [pair(8, 2, 64, overrides=SMALL), scheduled("f 8 r0.5@1", 64, layers=3,
                                                           overrides=SMALL)]
    how, (dilated, mixed) = measure(subjects, rounds=5, device="cpu")
    assert how["rounds"] == 5 and how["shape"] == [32, 2, 64, 16]
    for times in (dilated["ms"].values(), mixed["ms"].values()):
        assert all(0 < ms["low"] <= ms["median"] <= ms["high"] for ms in times)
    assert dilated["banded_over_flash"]["median"] > 0 and dilated["banded_over_dense"]["median"] > 0
    assert mixed["banded_over_flash"] is None, "a random pattern has no banded form"
    assert mixed["auto_over_dense"]["median"] > 0


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(BadInput, match="device 'nowhere'"):
        measure([pair(8, 2, 16, overrides=SMALL)], rounds=5, device="nowhere")


def test_what_auto_takes_is_one_of_the_ways_that_are_timed():
    q = torch.zeros(1, 2, 2048, 16)
    assert chosen_ways(parse_pattern("64"), q)["auto"].backend == "banded"
    assert chosen_ways(parse_pattern("f"), q)["auto"].backend == "flash"
    assert "banded" not in chosen_ways(parse_pattern("r0.5@1"), q)
    assert "dense" not in chosen_ways(parse_pattern("64"), torch.zeros(1, 1, 8192, 1))


def test_without_words_it_analyses_the_eight_pairs(tmp_path, capsys):
    assert lab.main(["analyze", "--no-timing", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "visualizations" / "analysis"
    text = (folder / "hyperparameter_analysis.txt").read_text()
    assert (
        text in capsys.readouterr().out
        and UNTIMED in text
        and "w 128, d 4" in text
        and "49.6%" in text
    )
    pictures = {path.name for path in folder.glob("*.png")}
    assert pictures == {"hyperparameter_comparison.png",
                        *(f"config_w{w}_d{d}.png" for w, d in PAIRS)}
    rows = json.loads((folder / "hyperparameter_analysis.json").read_text())["rows"]
    assert [tuple(row["pair"]) for row in rows] == list(PAIRS) and "measured" not in rows[0]


def test_a_timed_analysis_draws_the_tradeoff(tmp_path):
    from experiments.analysis.files import folder_of, write_rows
    subjects = [pair(w, d, 32, overrides=SMALL) for w, d in ((8, 2), (4, 3))]
    how, times = measure(subjects, rounds=5, device="cpu")
    rows = [describe(subject) | {"measured": measured}
            for subject, measured in zip(subjects, times, strict=True)]
    names = [path.name for path in write_rows(rows, how, folder_of(tmp_path))]
    assert "sparsity_speedup_tradeoff.png" in names
    assert all((folder_of(tmp_path) / name).stat().st_size for name in names)
    text = (folder_of(tmp_path) / "hyperparameter_analysis.txt").read_text()
    assert "are measured: the median of the ratios of 5 rounds" in text and UNTIMED not in text


def test_one_pair_as_json(tmp_path, capsys):
    assert lab.main(["analyze", "64", "8", "512", "--rounds", "5", "--json", "--device", "cpu",
                     "--out", str(tmp_path), *SMALL]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (
        found["rows"][0]["sparsity"] == pytest.approx(0.672, abs=6e-4)
        and found["measured"]["rounds"] == 5
    )
    assert found["rows"][0]["measured"]["banded_over_flash"]["median"] > 0
    folder = tmp_path / "visualizations" / "analysis"
    assert {path.name for path in folder.iterdir()} == {f"config_w64_d8.{kind}"
                                                        for kind in ("png", "txt", "json")}
    assert json.loads((folder / "config_w64_d8.json").read_text()) == found


def test_a_schedule_is_drawn_layer_by_layer(tmp_path, capsys):
    assert lab.main(["analyze", "lms_main", "128", "--layers", "6", "--no-timing", "--out",
                     str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "written for 12 layers" in out
    folder = tmp_path / "visualizations" / "analysis"
    assert {path.name for path in folder.iterdir()} == {
        "schedule_lms_main_masks.png", "schedule_lms_main_reach.png", "schedule_lms_main.txt",
        "schedule_lms_main.json"}


@pytest.mark.parametrize("words, said", [
    (["hafl"], "did you mean 'half'"),
    (["0", "4"], "the least is 1"),
    (["64", "0"], "the least is 1"),
    (["64", "8", "1"], "the least is 2"),
    (["64", "eight"], "D = 'eight' is not a whole number"),
    (["6.5", "8"], "W = '6.5' is not a whole number"),
    (["64"], "a window alone is a schedule, '64*'"),
    (["64", "8", "512", "3"], "give W D or W D S"),
    (["lms_main", "many"], "S = 'many' is not a whole number"),
    (["f", "256", "f"], "in quotes"),
    (["f 256 f"], "of the model's 12 layers"),
    (["nobody.s0"], "no run 'nobody.s0'"),
    (["64", "8", "--rounds", "4"], "the least is 5"),
    (["half", "--layers", "0"], "the least is 1"),
    (["64", "8", "--preset", "nanno"], "did you mean 'nano'"),
])
def test_bad_input_is_refused_with_the_nearest(words, said, tmp_path):
    with pytest.raises(BadInput, match=re.escape(said)):
        lab.main(["analyze", *words, "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir()), "nothing is half written"


def test_a_picture_of_many_pairs_shows_their_share():
    dense = shares(parse_pattern("2"), 4)
    assert np.array_equal(np.nan_to_num(dense), parse_pattern("2").mask(4).float().numpy())
    assert np.isnan(dense[0, 1])
    assert shares(parse_pattern("2"), 5, cells=3) == pytest.approx(
        np.array([[1, np.nan, np.nan], [1 / 4, 1, np.nan], [0, 1 / 2, 1]]), nan_ok=True)


def test_uniform_attention_has_the_entropy_of_its_keys():
    assert entropy(torch.full((2, 3, 7), 1 / 7)).allclose(torch.tensor(math.log(7)))
    assert float(entropy(torch.tensor([1.0, 0, 0]))) == 0
    model = tiny(schedule="f 4", position="none")
    for block in model.transformer.h:  # q and k are zero, so all keys have the same score
        torch.nn.init.zeros_(block.attn.c_attn.weight)
    x = np.random.default_rng(0).integers(0, 40, (2, 32))
    layers, _ = attention_of(model, x, x)
    for layer in layers:
        keys = parse_pattern(layer["pattern"]).keys_per_query(32)[1:]
        assert layer["entropy"]["mean"] == pytest.approx(np.log(keys).mean(), rel=1e-5)
        assert layer["entropy"]["uniform"] == pytest.approx(np.log(keys).mean(), rel=1e-5)
        assert layer["self"]["mean"] == pytest.approx((1 / keys).mean(), rel=1e-5)
    assert layers[1]["distance"]["mean"] == pytest.approx(np.mean([
        (min(i, 3)) / 2 for i in range(1, 32)]), rel=1e-5)


@pytest.mark.parametrize("settings", [{"position": "rope", "schedule": "5 8/4"},
                                      {"position": "alibi"},
                                      {"document_end": 3},
                                      {"backend": "dense", "schedule": "s4 6"}])
def test_the_weights_are_those_that_the_model_uses(settings):
    model = tiny(**settings)
    idx = torch.randint(40, (2, 32), generator=torch.Generator().manual_seed(1))
    before, seen = model(idx)[0], []
    with torch.no_grad(), watched(model) as watches:
        for watch in watches:
            watch.counted = torch.ones(2, 32, dtype=torch.bool)
            plain = watch.weights

            def weights(q, k, slopes, allowed, plain=plain):
                seen.append(plain(q, k, slopes, allowed))
                return seen[-1]
            watch.weights = weights
        assert model(idx)[0].allclose(before, atol=1e-5), "watching changes nothing"
    assert all(w.sum(-1).allclose(torch.ones(())) for w in seen)
    for block, w in zip(model.transformer.h, seen[::2], strict=True):
        mask = block.attn.pattern.mask(32)
        assert not w[..., ~mask].any() and w[..., mask].gt(0).any()
    assert model(idx)[0].equal(before), "and nothing is left behind"


def test_what_a_layer_adds_is_held_against_what_it_is_added_to():
    model = tiny()
    for block in model.transformer.h:
        torch.nn.init.zeros_(block.attn.c_proj.weight)
    x = np.ones((1, 32), dtype=np.int64)
    assert attention_of(model, x, x)[0][0]["output_over_residual"] == 0


def test_a_large_map_is_averaged_over_cells():
    weights = torch.rand(2, 3, 200, 200)
    small = coarse(weights)
    assert small.shape == (3, 100, 100)
    assert float(small[1, 7, 9]) == pytest.approx(float(weights.sum(0)[1, 14:16, 18:20].mean()),
                                                  rel=1e-5)


def test_a_trained_run_is_analysed(trained, capsys):
    capsys.readouterr()
    assert lab.main(["analyze", "turned.s0", "--rows", "3", "--out", str(trained), "--json",
                     "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == 3 and found["T"] == 64 and len(found["layers"]) == 3
    for layer in found["layers"]:
        assert layer["pattern"] == "16" and len(layer["entropy"]["by_head"]) == 3
        assert 0 < layer["entropy"]["mean"] <= layer["entropy"]["uniform"] < math.log(16)
        assert 0 <= layer["distance"]["mean"] <= 15 and layer["output_over_residual"] > 0
    folder = trained / "visualizations" / "analysis" / "turned.s0"
    assert {path.name for path in folder.iterdir()} == {"attention.txt", "attention.json",
                                                        "attention_maps.png",
                                                        "attention_heads.png",
                                                        "attention_statistics.png"}
    assert lab.main(["analyze", "turned", "--rows", "1", "--out",
                     str(trained)]) == 0, "an arm with one run is that run"


def test_a_run_cannot_be_changed(trained):
    with pytest.raises(BadInput, match="settings cannot be changed"):
        lab.main(["analyze", "turned.s0", "--out", str(trained), "--model.n_layer=2"])
    with pytest.raises(BadInput, match="the least is 1"):
        lab.main(["analyze", "turned.s0", "--out", str(trained), "--rows", "0"])


def test_words_are_read_as_pairs_or_schedules():
    assert [subject.pair for subject in read([])] == list(PAIRS)
    assert read(["64", "8", "512"])[0].T == 512 and read(["64", "8"])[0].T == 256
    assert read(["lms_main"])[0].T == 1024 and len(read(["256*"], layers=3)[0].schedule) == 3
    assert len(read(["64", "8"], overrides=["--model.n_layer=2"])[0].schedule) == 2
