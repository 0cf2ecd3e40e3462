"""The token cache: one of many processes builds it, once, and whole or not at all."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments.corpus import build, get_default_config, open_corpus
from experiments.corpus.hub import NAMED, HubSource, articles
from experiments.corpus.stdlib import SETS, StdlibSource
from experiments.system import held
from mingpt.utils import BadInput

OPEN = """
import sys, json
from experiments.corpus import get_default_config, open_corpus
config = get_default_config()
config.merge_from_dict(json.loads(sys.argv[1]))
print(json.dumps(open_corpus(config).describe()))
assert "torch" not in sys.modules
"""


@pytest.fixture
def corpus_file(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"document number {n}"}) + "\n"
                            for n in range(200)))
    return path


def start(config) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", OPEN, json.dumps(config.to_dict())], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture
def builds(monkeypatch):
    """The list of folders that are built, not found in the cache."""
    done, original = [], build._build
    monkeypatch.setattr(build, "_build", lambda *args: (done.append(args[-1]), original(*args)))
    return done


def test_a_second_opening_reads_the_cache(corpus_file, data_config, builds):
    first, second = (open_corpus(data_config(corpus_file)).describe() for _ in range(2))
    assert first == second and len(builds) == 1


def test_the_cache_goes_by_content_not_by_name_or_time(corpus_file, data_config, builds, tmp_path):
    first = open_corpus(data_config(corpus_file)).describe()
    copy = tmp_path / "b.jsonl"
    copy.write_bytes(corpus_file.read_bytes())
    os.utime(copy, (1, 1))
    second = open_corpus(data_config(copy)).describe()
    assert first["hash"] == second["hash"] and len(builds) == 1
    copy.write_text(copy.read_text().replace("number 7\"", "number 8\""))
    assert open_corpus(data_config(copy)).describe()["hash"] != first["hash"] and len(builds) == 2


@pytest.mark.parametrize("change", [{"tokenizer": "gpt2"}, {"min_chars": 3}, {"max_docs": 100}])
def test_settings_that_change_the_tokens_are_part_of_the_key(
        corpus_file, data_config, builds, change):
    open_corpus(data_config(corpus_file))
    open_corpus(data_config(corpus_file, **change))
    assert len(builds) == 2


@pytest.mark.parametrize("change", [{"val_docs": 9}, {"val_fraction": 0.5}, {"pack": "truncate"},
                                    {"max_bad": 0.5}])
def test_settings_that_do_not_are_not(corpus_file, data_config, builds, change):
    open_corpus(data_config(corpus_file))
    open_corpus(data_config(corpus_file, **change))
    assert len(builds) == 1


def test_a_large_file_is_known_by_its_size_time_and_samples(
        corpus_file, data_config, builds, monkeypatch):
    monkeypatch.setattr("experiments.corpus.sources.WHOLE", 10)
    monkeypatch.setattr("experiments.corpus.sources.SAMPLE", 5)
    open_corpus(data_config(corpus_file))
    open_corpus(data_config(corpus_file))
    assert len(builds) == 1
    os.utime(corpus_file, (1, 1))
    open_corpus(data_config(corpus_file))
    assert len(builds) == 2


def test_a_cache_that_lost_a_file_is_built_again(corpus_file, data_config, builds):
    first = open_corpus(data_config(corpus_file))
    (first.store.folder / "tokens-00000.bin").write_bytes(b"half")
    assert open_corpus(data_config(corpus_file)).describe() == first.describe() and len(builds) == 2


def test_every_damage_to_the_cache_is_noticed_and_the_cache_made_again(
        corpus_file, data_config, builds, capsys):
    config, rng, trials = data_config(corpus_file), random.Random(0), 0
    store = open_corpus(config).store
    tokens = np.array(store.shards[0])
    for path in sorted(store.folder.iterdir()):
        for damage in ("bit", "page", "cut", "gone"):
            data = bytearray(path.read_bytes())
            place = rng.randrange(len(data))
            if damage == "bit":
                data[place] ^= 1 << rng.randrange(8)
            elif damage == "page":
                data[place:place + 99] = b"\0" * len(data[place:place + 99])
            path.unlink() if damage == "gone" else path.write_bytes(
                data[:place] if damage == "cut" else data)
            trials += 1
            again = open_corpus(config).store
            assert (
                len(builds) == 1 + trials and "damaged and is made again" in capsys.readouterr().err
            ), (path, damage)
            assert (again.shards[0] == tokens).all()
    assert trials == 4 * 4


def test_a_large_cache_is_verified_where_it_is_read(corpus_file, data_config, builds, monkeypatch):
    monkeypatch.setattr("experiments.corpus.build.WHOLE", 0)
    monkeypatch.setattr("experiments.corpus.store.BLOCK", 64)
    config = data_config(corpus_file)
    path = open_corpus(config).store.folder / "tokens-00000.bin"
    data = bytearray(path.read_bytes())
    data[-30] ^= 1
    path.write_bytes(data)
    store = open_corpus(config).store
    end = len(data) // store.shards[0].itemsize
    assert len(store.read(0, end // 2)) == end // 2, "nothing is wrong there"
    with pytest.raises(BadInput, match="run the same command again"):
        store.read(end - 20, 20)
    assert len(builds) == 1
    assert open_corpus(config).store.read(end - 20, 20).size == 20 and len(builds) == 2


def test_threads_change_nothing(tmp_path, data_config, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"{n} " * (n % 50 + 10)}) + "\n"
                            for n in range(20_000)))
    many = open_corpus(data_config(path, cache=str(tmp_path / "many")))
    monkeypatch.setattr(build, "THREADS", 1)
    one = open_corpus(data_config(path, cache=str(tmp_path / "one")))
    assert many.store.hash == one.store.hash
    for name in ("tokens-00000.bin", "documents.bin"):
        assert (many.store.folder / name).read_bytes() == (one.store.folder / name).read_bytes()


def test_killed_half_way_it_starts_again_cleanly(tmp_path, data_config):
    path = tmp_path / "a.jsonl"
    path.write_text((json.dumps({"text": "words of a document " * 50}) + "\n") * 80_000)
    config = data_config(path, tokenizer="gpt2")
    process, cache = start(config), tmp_path / "cache"
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size for p in cache.glob("*.tmp/tokens-*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = list(cache.glob("*.tmp"))
    assert left and not any(cache.glob("*/meta.json"))
    path.write_text("".join(json.dumps({"text": f"document number {n}"}) + "\n"
                            for n in range(200)))
    # building another corpus also removes the folder of the killed process
    account = open_corpus(config).describe()
    assert account["documents"] == 200 and not list(cache.glob("*.tmp"))


def test_two_at_once_build_once_and_agree(tmp_path, data_config):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"{n} words of a document " * 50}) + "\n"
                            for n in range(15_000)))
    config = data_config(path, tokenizer="gpt2")
    processes = [start(config) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert sum("waiting for it" in err for _, err in outputs) <= 1
    assert len(list((tmp_path / "cache").glob("*/meta.json"))) == 1


def test_the_second_waits_for_the_lock_and_says_so(corpus_file, data_config, tmp_path):
    config = data_config(corpus_file)
    open_corpus(config)
    lock = next((tmp_path / "cache").glob("*.lock"))
    with held(lock):
        process = start(config)
        assert "waiting for it" in process.stderr.readline() and process.poll() is None
    assert json.loads(process.communicate(timeout=60)[0])["documents"] == 200


def test_a_refused_corpus_leaves_nothing_behind(tmp_path, data_config):
    path = tmp_path / "a.jsonl"
    path.write_text("not json\n" * 100)
    with pytest.raises(BadInput, match="100 not JSON"):
        open_corpus(data_config(path))
    assert [p.suffix for p in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_written_is_named(corpus_file, data_config, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadInput, match=r"token cache .*file.* cannot be written .*data\.cache=DIR"):
        open_corpus(data_config(corpus_file, cache=str(tmp_path / "file")))


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / "elsewhere"))
    assert build.cache_root(get_default_config()) == tmp_path / "elsewhere"


def test_without_data_pythons_own_library_is_read_and_announced(
        tmp_path, data_config, monkeypatch, capsys):
    package = tmp_path / "lib"
    (package / "test").mkdir(parents=True)
    (package / "test" / "secret.py").write_text("'''" + "not for reading " * 50 + "'''")
    for n in range(12):
        (package / f"m{n}.py").write_text(
            f"'''Module {n} explains itself at some length, as modules should do.'''\n\n"
            f"def double(x):\n    'Twice x.'\n    return {n} * x  # "
            f"and more\n" * 3
        )
    monkeypatch.setattr("experiments.corpus.sources.StdlibSource", lambda: StdlibSource(package))
    account = open_corpus(data_config()).describe()
    assert "No --data: using the standard library of Python" in capsys.readouterr().err
    open_corpus(data_config(), announce=False)      # a study says it once, not before every run
    assert capsys.readouterr().err == ""
    assert set(account["sets"]) == set(SETS) and account["sets"]["PythonSource"]["documents"] == 12


def test_docstrings_are_taken_out_of_the_sources(tmp_path):
    (tmp_path / "m.py").write_text(
        '"""What the module is for, told in more than a few words, and then some."""\n'
        "import os\n\nclass C:\n    '''A class\n    of two lines.'''\n    x = 1  # kept\n\n"
        "    def f(self):\n        'One line.'\n        return "
        "os.getcwd(), 'a string'\n"
    )
    chunk = next(iter(StdlibSource(tmp_path).chunks()))
    said, code = dict(zip(chunk.sets, chunk.texts, strict=True))["PythonDocstrings"], chunk.texts[1]
    assert "C\n    A class\n    of two lines." in said and "C.f\n    One line." in said
    assert code == ("import os\n\nclass C:\n    x = 1  # kept\n\n    def f(self):\n"
                    "        return os.getcwd(), 'a string'")


def test_the_real_library_is_a_corpus_of_megabytes():
    source = StdlibSource()
    sizes = dict.fromkeys(SETS, 0)
    for chunk in source.chunks():
        for name, text in zip(chunk.sets, chunk.texts, strict=True):
            sizes[name] += len(text)
    assert all(size > 1e6 for size in sizes.values()) and sum(sizes.values()) < 20e6


def test_no_python_sources_is_refused(tmp_path):
    with pytest.raises(BadInput, match="give --data PATH"):
        StdlibSource(tmp_path)


def test_lines_of_wikitext_become_articles():
    first = ["", " = First = \n", "", " Some words . \n", " = = A part = = \n", " More words . \n"]
    second = [" = Second = \n", " x \n"]
    found = [record["text"] for record in articles({"text": line} for line in first + second)]
    assert found == ["".join(first), "".join(second)]


@pytest.mark.parametrize("name", NAMED)
def test_a_data_set_without_a_network_is_refused_in_one_line(name, data_config, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(BadInput, match=f"--data {name}: .*could not be fetched .*network") as error:
        open_corpus(data_config(name))
    assert "\n" not in str(error.value)


def test_a_data_set_without_the_library_is_refused_in_one_line(data_config, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadInput, match="needs the `datasets` library"):
        open_corpus(data_config("tinystories"))


def test_a_data_sets_records_become_documents(data_config, monkeypatch):
    records = [{"text": f"story number {n}", "meta": {"pile_set_name": "P"} if n % 2 else None}
               for n in range(500)]
    monkeypatch.setattr(HubSource, "_records", lambda self: iter(records))
    account = open_corpus(data_config("tinystories", max_docs=150)).describe()
    assert account["documents"] == 150
    assert {name: totals["documents"] for name, totals in account["sets"].items()} == {
        "text": 75, "P": 75}
