"""Settings of pretraining: model, objectives, the run."""
