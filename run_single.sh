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
# One run, here or as a SLURM job:
#
#   bash run_single.sh -r --seed 1                    # lab.py's arguments
#   FLAG="-r" sbatch --gres=gpu:1 run_single.sh       # or in $FLAG
#   sbatch --array=0-20 run_single.sh                 # or the n-th run of the study `seven`
#
# No GPU is asked for above, as a cluster without any would refuse the job: give --gres=gpu:1, or set SBATCH_GRES=gpu:1
# once. Two minutes before its time is up a job saves a checkpoint and queues itself again, to go on from there.
set -euo pipefail

# The last task of an array has the array's own id: by that name SLURM would take all tasks.
job=${SLURM_JOB_ID:-}
if [[ -n ${SLURM_ARRAY_JOB_ID:-} ]]; then
    job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
fi

# SLURM runs a copy of this file from its spool and knows where the original is.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ ! -f $root/lab.py && -n $job ]]; then
    root=$(scontrol show job "$job" | sed -n 's|^ *Command=\(.*\)/run_single\.sh.*|\1|p')
fi
python=$root/.venv/bin/python

if [[ ! -e $root/.venv/.installed ]]; then
    exec 9> "$root/.setup.lock"     # several jobs may start at once
    if command -v flock > /dev/null; then flock 9; fi
    make --no-print-directory -C "$root" setup >&2
    exec 9>&-
fi

if (( $# == 0 )); then
    if [[ -n ${FLAG:-} ]]; then
        read -r -a words <<< "$FLAG"
        set -- "${words[@]}"
    elif [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
        set -- study --task "$SLURM_ARRAY_TASK_ID"
    fi
fi

if [[ -z $job || -t 0 ]]; then     # no batch job
    exec "$python" "$root/lab.py" "$@"
fi

if [[ -z ${CUDA_VISIBLE_DEVICES:-} ]] && sinfo -h -o %G | grep -q gpu; then
    echo "run_single.sh: this cluster has GPUs, and this job asked for none (sbatch --gres=gpu:1 does)" >&2
fi

# SLURM signals this shell alone, and a shell hears nothing while it runs a program in the foreground.
"$python" "$root/lab.py" "$@" &
child=$!
# shellcheck disable=SC2317    # the traps call it
forward() {
    heard=$1 again=yes
    if kill -0 "$child" 2> /dev/null; then kill -s "$1" "$child"; fi
}
trap 'forward USR1' USR1
trap 'forward TERM' TERM
heard='' again=yes
while [[ $again == yes ]]; do     # a signal ends `wait`, not the program
    again=no code=0
    wait "$child" || code=$?
done

# 3: interrupted, checkpoint saved. 138: it had not even begun when the signal came.
if [[ $heard == USR1 && ( $code == 3 || $code == 138 ) ]]; then
    echo "run_single.sh: time is nearly up: queueing job $job again" >&2
    scontrol requeue "$job"
fi
exit "$code"
