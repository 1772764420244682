"""What a model sees: features as colors, similarity, attention, maps of clips, tracking. Arrays in, typed results out."""
