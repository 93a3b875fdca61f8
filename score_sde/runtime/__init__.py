"""What runs need beside the mathematics: checkpoints, hosts, meshes, signals, logs."""
