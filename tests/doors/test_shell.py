"""run_all.sh and run_single.sh: the arguments that they pass on, and signals in a batch job."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.declare.arms import catalogue

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("run_all.sh", "run_single.sh")
SLURM = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "FLAG")

# Stands in for .venv/bin/python. It prints its arguments. With PLAY set, it waits for a signal and
# then exits with the given code.
PYTHON = f"""#!/usr/bin/env bash
if [[ ${{1:-}} == -c ]]; then exec {sys.executable} "$@"; fi   # the script's own helper
""" + """
printf '<%s>' "$@"; echo
if [[ -n ${PLAY:-} ]]; then
    trap 'echo heard USR1; exit $PLAY' USR1
    trap 'echo heard TERM; exit $PLAY' TERM
    echo ready
    for (( i = 0; i < 600; i++ )); do sleep 0.05; done
fi
exit "${CODE:-0}"
"""
SCONTROL = """#!/usr/bin/env bash
if [[ $1 == show ]]; then
    printf 'JobId=7 JobName=ablate\\n   Command=%s/run_single.sh -r\\n   WorkDir=/\\n' "$HOME"
fi
if [[ $1 == requeue ]]; then echo "requeued $2"; fi
"""


@pytest.fixture
def project(tmp_path):
    """A copy of the scripts in a folder whose name has a space. Stand-ins replace everything that
    they call."""
    root = tmp_path / "the project"
    (root / ".venv/bin").mkdir(parents=True)
    (root / ".venv/.installed").touch()
    (root / "lab.py").touch()
    for name in SCRIPTS:
        shutil.copy(ROOT / name, root)
    write(root / ".venv/bin/python", PYTHON)
    write(tmp_path / "bin/scontrol", SCONTROL)
    write(tmp_path / "bin/sinfo", "#!/usr/bin/env bash\necho '(null)'\n")
    return root


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def environment(project, **more):
    kept = {key: value for key, value in os.environ.items() if key not in SLURM}
    return {**kept, "PATH": f"{project.parent}/bin:{os.environ['PATH']}", "HOME": str(project),
            **more}


def bash(project, script, *args, cwd=None, **more):
    return subprocess.run(["bash", str(script if isinstance(script, Path)
                                       else project / script), *args],
                          cwd=cwd or project.parent, env=environment(project, **more), text=True,
                          capture_output=True, stdin=subprocess.DEVNULL, timeout=30)


def called(project, *args):
    return "".join(f"<{arg}>" for arg in (f"{project}/lab.py", *args)) + "\n"


def test_run_all_is_lab_study_with_the_users_arguments_from_any_folder(project, tmp_path):
    args = ("my study.toml", "--data", "a b.jsonl", "--seeds", "0-1")
    done = bash(project, "run_all.sh", *args, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, called(project, "study", *args))
    assert bash(project, "run_all.sh").stdout == called(project, "study")


def test_run_single_takes_arguments_or_flag_or_the_array_task(project):
    assert bash(project, "run_single.sh", "-r", "--out", "x y").stdout == called(
        project, "-r", "--out", "x y")
    assert bash(project, "run_single.sh", FLAG="-r -w").stdout == called(project, "-r", "-w")
    assert bash(project, "run_single.sh", SLURM_ARRAY_TASK_ID="3").stdout == called(
        project, "study", "--task", "3")
    # arguments override the inherited FLAG
    assert bash(project, "run_single.sh", "-s", FLAG="-r").stdout == called(project, "-s")
    assert bash(project, "run_single.sh").stdout == called(project)


def test_the_exit_code_is_the_programs(project):
    for code in (0, 1, 2, 3):
        assert bash(project, "run_all.sh", CODE=str(code)).returncode == code
        assert bash(project, "run_single.sh", "-r", CODE=str(code),
                    SLURM_JOB_ID="7").returncode == code


def test_a_missing_environment_is_made_first_and_its_words_are_not_output(project):
    shutil.rmtree(project / ".venv")
    (project / "fake").write_text(PYTHON)
    (project / "Makefile").write_text("setup:\n\t@echo making\n\t@mkdir -p .venv/bin && cp fake "
                                      ".venv/bin/python"
                                      " && chmod +x .venv/bin/python && touch .venv/.installed\n")
    first, second = bash(project, "run_all.sh"), bash(project, "run_all.sh")
    assert "making" in first.stderr and "making" not in second.stderr
    assert first.stdout == second.stdout == called(project, "study")
    # the lock file is inside .venv, which git ignores
    assert {path.name for path in project.iterdir()} == {*SCRIPTS, ".venv", "Makefile", "fake",
                                                         "lab.py"}


def test_a_failed_setup_is_the_end(project):
    shutil.rmtree(project / ".venv")
    (project / "Makefile").write_text("setup:\n\t@exit 5\n")
    assert bash(project, "run_all.sh").returncode == 2   # make's own exit code


def test_a_batch_job_finds_the_project_though_slurm_runs_a_copy_of_the_script(project, tmp_path):
    copy = tmp_path / "spool" / "slurm_script"
    copy.parent.mkdir()
    shutil.copy(project / "run_single.sh", copy)
    done = bash(project, copy, "-r", SLURM_JOB_ID="7")
    assert (done.returncode, done.stdout) == (0, called(project, "-r"))


def test_a_job_without_a_gpu_on_a_cluster_with_some_says_so(project):
    write(project.parent / "bin/sinfo", "#!/usr/bin/env bash\necho gpu:a100:4\n")
    assert "asked for none" in bash(project, "run_single.sh", "-r", SLURM_JOB_ID="7",
                                    CUDA_VISIBLE_DEVICES="").stderr
    assert bash(project, "run_single.sh", "-r", SLURM_JOB_ID="7",
                CUDA_VISIBLE_DEVICES="0").stderr == ""


@pytest.mark.parametrize("number, code, requeued", [
    (signal.SIGUSR1, 3, True),      # the time is nearly up, and a checkpoint is saved
    (signal.SIGUSR1, 0, False),     # the run finished in the meantime
    (signal.SIGUSR1, 1, False),     # the run failed, and would fail again
    (signal.SIGTERM, 3, False),     # cancelled, or preempted: then SLURM queues it again
])
def test_a_batch_job_passes_signals_on_and_queues_itself_again_only_when_time_is_up(
        project, number, code, requeued):
    with subprocess.Popen(["bash", str(project / "run_single.sh"), "-r"], stdin=subprocess.DEVNULL,
                          text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env=environment(project, SLURM_JOB_ID="7", PLAY=str(code))) as job:
        lines = iter(job.stdout.readline, "")
        assert "ready\n" in lines
        time.sleep(0.1)
        job.send_signal(number)
        out, _ = job.communicate(timeout=30)
    assert f"heard {number.name[3:]}\n" in out
    assert job.returncode == code
    assert ("requeued 7" in out) == requeued


def test_no_arm_is_named_where_none_belongs():
    names = "|".join(name for name, arm in catalogue().items() if arm.settings)
    for path in ("lab.py", "plotter.py", *SCRIPTS):
        assert not re.findall(rf"\b({names})\b", (ROOT / path).read_text()), path


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_finds_nothing(script):
    done = subprocess.run(["shellcheck", str(ROOT / script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
