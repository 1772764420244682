"""Results of cross-validations on disk, from which an interrupted command resumes when it is repeated."""

from __future__ import annotations

import io
import json
import logging
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from openvjepa.features.cache import digest
from openvjepa.probing.calibration import Calibration
from openvjepa.probing.search.crossval import CrossValidated
from openvjepa.probing.search.regression import Regression
from openvjepa.weights.files import write_file

FORMAT = 1
log = logging.getLogger("openvjepa")


def kept_result(
    folder: Path, facts: list[Any], work: Callable[[], CrossValidated], is_whole: Callable[[], bool]
) -> CrossValidated:
    """What an earlier run has found out, or what `work` finds out now, which is then kept.

    Args:
        folder: of the results.
        facts: everything that the result follows from, as plain values.
        work: the cross-validation.
        is_whole: whether it was not cut short, so that its result may be kept.

    Raises:
        CheckpointError: it cannot be written.
    """
    path = folder / f"{digest([FORMAT, *facts])[:24]}.npz"
    if path.exists():
        try:
            return _read(path)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            log.warning("%s is damaged: comparing again", path)
    result = work()
    if is_whole():
        _write(path, result)
    return result


def _write(path: Path, result: CrossValidated) -> None:
    facts: dict[str, Any] = {"kind": result.kind, "folds": result.folds, "seconds": result.seconds}
    facts["calibration"] = asdict(result.calibration)
    if result.chosen is not None:
        facts["regression"] = {"cells": result.chosen.cells, "penalty": result.chosen.penalty}
    found = io.BytesIO()
    np.savez(found, logits=result.logits, facts=np.array(json.dumps(facts)))
    write_file(path, found.getvalue())


def _read(path: Path) -> CrossValidated:
    with np.load(path, allow_pickle=False) as stored:
        logits, facts = np.asarray(stored["logits"], dtype=np.float64), json.loads(str(stored["facts"]))
    chosen = None
    if "regression" in facts:
        t, h, w = facts["regression"]["cells"]
        chosen = Regression((t, h, w), facts["regression"]["penalty"], logits)
    calibration = Calibration(**facts["calibration"])
    return CrossValidated(facts["kind"], logits, tuple(facts["folds"]), calibration, facts["seconds"], chosen)
