"""Several labels of the same videos: one split for all of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from openvjepa.config import SplitConfig, part
from openvjepa.data.lists.index import VideoIndex, read_index
from openvjepa.data.lists.splits import check_splits, read_splits, same_classes
from openvjepa.data.splitting.classes import without_classes
from openvjepa.errors import DataError

log = logging.getLogger("openvjepa")


def splits_of_labels(config: SplitConfig, labels: Sequence[str]) -> dict[str, dict[str, VideoIndex]]:
    """Label column -> splits with its classes. The split is stratified by the first column, and the same for all.

    Videos without a label in a column are left out for this column, which is logged.

    Raises:
        DataError: a column is missing, or the split leaves a class of another column nothing to train on.
    """
    config = part(config, SplitConfig)  # without what else a verb has
    first = read_splits(replace(config, label=labels[0]))
    found = {labels[0]: first}
    for label in labels[1:]:
        own: dict[str, VideoIndex] = {}
        for split, index in first.items():
            whole = read_index(index.source, label=label, group=config.group)
            places = {record.name: record for record in whole.records}
            records = [replace(places[record.name], split=record.split) for record in index.records]
            kept = tuple(record for record in records if record.label is not None)
            if len(kept) < len(records):
                log.warning("%s: %d of %d videos have no %s", split, len(records) - len(kept), len(records), label)
            own[split] = replace(whole, records=kept)
        found[label] = same_classes(without_classes(own, replace(config, exclude=(), label=label)))
        try:
            check_splits(found[label])
        except DataError as error:
            raise DataError(f"label {label}, with the split by {labels[0]}: {error}") from None
        if len(found[label]["train"].classes or ()) < 2:
            raise DataError(f"label {label}: all videos to train on are of one class: a classifier needs at least two")
    return found
