"""The pretraining task: a JEPA with its EMA target as the trainer sees it, where it starts from, and the collapse monitor."""
