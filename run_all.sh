#!/usr/bin/env bash
# Train every arm of a study with every seed, draw the plots and print the verdicts:
#
#   bash run_all.sh [STUDY] [--seeds 0-4] [--preset P] [--data PATH] [--out DIR] \
#       [--jobs N] [--local] [--dry-run]
#
# With sbatch on the PATH the runs become SLURM jobs; --local runs them on this machine instead.
# `bash run_all.sh --help` lists all options.
set -euo pipefail

exec bash "$(dirname "${BASH_SOURCE[0]}")/run_single.sh" study "$@"
