"""Many runs: `plan` lists them, `launch` starts them here, `slurm` on a cluster, `board` and `live`
show them."""
