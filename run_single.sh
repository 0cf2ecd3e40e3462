#!/usr/bin/env bash
#SBATCH --job-name=ablate
#SBATCH --time=12:00:00
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --output=%x_%j.out
#
# Train one run, on this machine or as a SLURM job:
#
#   bash run_single.sh -r --seed 1                    # with lab.py's arguments
#   FLAG="-r" sbatch --gres=gpu:1 run_single.sh       # with lab.py's arguments in $FLAG
#   sbatch --array=0-20 run_single.sh                 # task n trains run n of the study `seven`
#   sbatch --nodes=2 run_single.sh -r --processes 4   # one run, 4 processes on each of 2 nodes
#
# The options above ask for no GPU, because a cluster without GPUs would refuse the job. Give
# --gres=gpu:1, or set SBATCH_GRES=gpu:1 once. Two minutes before its time limit a job saves a
# checkpoint and queues itself again. It then continues from the checkpoint.
set -euo pipefail

# The last task of an array has the array's own id as its job id. SLURM would take that id for all
# tasks, so name the task itself.
job=${SLURM_JOB_ID:-}
if [[ -n ${SLURM_ARRAY_JOB_ID:-} ]]; then
    job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
fi

# SLURM runs a copy of this file from its spool folder. Ask it for the path of the original.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ ! -f $root/lab.py && -n $job ]]; then
    root=$(scontrol show job "$job" | sed -n 's|^ *Command=\(.*\)/run_single\.sh.*|\1|p')
fi
python=$root/.venv/bin/python

if [[ ! -e $root/.venv/.installed ]]; then
    mkdir -p "$root/.venv"
    exec 9> "$root/.venv/.setup.lock"     # several jobs may start at once
    if command -v flock > /dev/null; then flock 9; fi
    make --no-print-directory -C "$root" setup >&2
    exec 9>&-
fi

if (( $# == 0 )); then
    if [[ -n ${FLAG:-} ]]; then
        words=$("$python" -c '
import shlex, sys
try:
    print("\n".join(shlex.split(sys.argv[1])))
except ValueError as error:
    print(f"error: $FLAG: {error}", file=sys.stderr)
    sys.exit(2)' "$FLAG")
        mapfile -t words <<< "$words"
        set -- "${words[@]}"
    elif [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
        set -- study --task "$SLURM_ARRAY_TASK_ID"
    fi
fi

if [[ -z $job || -t 0 ]]; then     # not a batch job
    exec "$python" "$root/lab.py" "$@"
fi

if [[ -z ${CUDA_VISIBLE_DEVICES:-} ]] && sinfo -h -o %G | grep -q gpu; then
    echo "run_single.sh: this cluster has GPUs, and this job asked for none" \
        "(sbatch --gres=gpu:1 asks for one)" >&2
fi

launch=("$python" "$root/lab.py")
if (( ${SLURM_JOB_NUM_NODES:-1} > 1 )); then     # one program per node; together they are one run
    launch=(srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1
        --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" "${launch[@]}")
fi

# SLURM signals only this shell. A shell handles no signal while a program runs in its foreground,
# so the program runs in the background.
"${launch[@]}" "$@" &
child=$!
# shellcheck disable=SC2317    # the traps call it
forward() {
    heard=$1 again=yes
    if kill -0 "$child" 2> /dev/null; then kill -s "$1" "$child"; fi
}
trap 'forward USR1' USR1
trap 'forward TERM' TERM
heard='' again=yes
while [[ $again == yes ]]; do     # a signal ends `wait` but not the program, so wait again
    again=no code=0
    wait "$child" || code=$?
done

# Exit code 3: the run was interrupted and has saved a checkpoint.
# Exit code 138: the signal came before the program had started.
if [[ $heard == USR1 && ( $code == 3 || $code == 138 ) ]]; then
    echo "run_single.sh: the time limit is near: queueing job $job again" >&2
    scontrol requeue "$job"
fi
exit "$code"
