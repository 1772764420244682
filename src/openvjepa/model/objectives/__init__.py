"""The losses of pretraining, one file each; `JEPA` adds them up with the weights of `ObjectiveConfig`."""
