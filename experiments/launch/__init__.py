"""The runs of a study: `plan` lists them, `launch` starts them on this machine, `slurm` on a
cluster, `board` and `live` show their progress."""
