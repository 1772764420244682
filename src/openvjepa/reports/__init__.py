"""Pages, charts, cards and annotated videos."""
