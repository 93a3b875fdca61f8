"""What a run stands on: checkpoints, hosts, meshes, signals, resumable work, logs."""
