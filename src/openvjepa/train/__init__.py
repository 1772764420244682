"""The training loop: optimizer and schedules, devices and processes, checkpoints, logs."""
