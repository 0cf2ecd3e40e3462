"""Names, locks with and without the system's own, full disks, and text on a terminal."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from experiments import system
from experiments.system import Held, expanded, file_name, held, patiently, printable, terminal
from mingpt.utils import BadInput

NO_LOCKS = [None, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP]


@pytest.fixture(params=NO_LOCKS, ids=lambda number: errno.errorcode.get(number, "flock"))
def locks(request, monkeypatch):
    """The machine with its own locks, then without: claims take their place."""
    if request.param:
        def absent(*arguments):
            raise OSError(request.param, os.strerror(request.param))
        monkeypatch.setattr(fcntl, "flock", absent)
    monkeypatch.setattr(system, "PAUSE", 0.02)


@pytest.mark.parametrize("name", ["../x", "a/b", "/x", "", " ", ".hidden", "a\0b", "a\nb", "a\x1b",
                                  "x" * 201, "é" * 101, "a\\b", 3, None])
def test_a_name_that_leads_elsewhere_names_no_file(name):
    with pytest.raises(BadInput, match="where: .*(cannot name|too long)"):
        file_name(name, "where")
    assert file_name("rope_wide+2.s0 é", "where")


def test_a_second_holder_is_told_and_waits_until_the_first_ends(tmp_path, locks):
    path, order = tmp_path / "a.lock", []

    def second():
        with held(path, lambda: order.append("waits")):
            order.append("holds")
    with held(path):
        with pytest.raises(Held), held(path):
            pass
        thread = threading.Thread(target=second)
        thread.start()
        while not order:
            time.sleep(0.01)
        order.append("ends")
    thread.join()
    assert order == ["waits", "ends", "holds"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.lock"]


def test_a_lock_never_changes_a_file_nor_follows_a_link(tmp_path, locks):
    victim = tmp_path / "thesis"
    victim.write_text("precious")
    with held(victim):
        pass
    (tmp_path / "b.lock").symlink_to(victim)
    with pytest.raises(BadInput, match="symbolic link"), held(tmp_path / "b.lock"):
        pass
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(("owner", "age", "stale"), [
    ({"host": "elsewhere", "pid": 1}, 0, False), ({"host": "elsewhere", "pid": 1}, 10**4, True),
    ({"pid": "gone"}, 0, True), ({"pid": "this"}, 10**4, False), ({"pid": "reused"}, 10**8, True),
    (None, 10**4, True)], ids=["elsewhere", "elsewhere silent", "gone", "alive", "reused", "empty"])
def test_the_claim_of_a_dead_process_is_taken_over_and_that_of_a_living_one_is_not(
        tmp_path, monkeypatch, owner, age, stale):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    if owner:
        pid = {"gone": gone.pid, "this": os.getpid(), "reused": os.getpid()}.get(owner["pid"], 1)
        owner = {"host": system.socket.gethostname(), **owner, "pid": pid}
    if stale is False and owner["pid"] == os.getpid():    # the claim is older than the process
        monkeypatch.setattr(system, "began_at", lambda pid: 0.0)
    path = tmp_path / "x.claim"
    path.write_text(json.dumps(owner) if owner else "")
    os.utime(path, (time.time() - age,) * 2)
    claim = system.Claim(path)
    assert claim.take() == stale
    claim.release()
    assert path.exists() != stale and len(list(tmp_path.iterdir())) == (not stale)


def test_a_living_claim_shows_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(system, "BEAT", 0.02)
    claim = system.Claim(tmp_path / "x.claim")
    assert claim.take()
    os.utime(claim.path, (0, 0))
    until = time.monotonic() + 20
    while claim.path.stat().st_mtime == 0 and time.monotonic() < until:
        time.sleep(0.02)
    assert claim.path.stat().st_mtime > 0
    claim.release()


def test_a_full_disk_is_waited_for_and_any_other_error_is_not(monkeypatch):
    monkeypatch.setattr(system, "PAUSE", 0)
    left, said = [errno.ENOSPC, errno.EDQUOT], []

    def write():
        if left:
            raise OSError(left.pop(), "No space left on device")
        return "written"
    assert patiently(write, said.append) == "written" and len(said) == 1
    left[:] = [errno.EIO]
    with pytest.raises(OSError):
        patiently(write, said.append)
    left[:] = [errno.ENOSPC] * 5
    with pytest.raises(OSError):
        patiently(write, said.append, give_up=lambda: len(left) < 3)


def test_without_a_home_folder_a_path_is_refused_and_no_folder_is_called_tilde(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    with pytest.raises(BadInput, match="no home folder"):
        expanded("~/.cache")
    assert str(expanded("a/b")) == "a/b"


def test_nothing_that_is_printed_is_markup_or_steers_the_terminal(capsys):
    from rich.table import Table
    table = Table("[/red]")
    table.add_row("[b]x[/i] :smile:")
    terminal(width=80).print(table)
    assert "[b]x[/i] :smile:" in capsys.readouterr().out
    assert printable("a\x1b[31m\n b\udcff") == "a\\x1b[31m b\\udcff"
