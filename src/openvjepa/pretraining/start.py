"""Where a pretraining run starts from, if not from random weights (`--init`)."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from openvjepa.config import PretrainConfig
from openvjepa.model.predictor import Predictor
from openvjepa.pretraining.task import PretrainTask
from openvjepa.train.checkpoint import list_checkpoints, load_newest
from openvjepa.train.resume import check_weights, load_weights
from openvjepa.weights.hub import load_model

log = logging.getLogger("openvjepa")


class Start:
    """The model that a run starts from: a pretraining run with all its state, or any other model's weights."""

    def __init__(self, config: PretrainConfig) -> None:
        assert config.init is not None
        shape = {"img_size": config.model.img_size, "num_frames": config.model.num_frames}
        self.model = load_model(config.init, arch=shape)
        self.config = replace(config, model=replace(self.model.config, predictor_kind="masked"))
        self.checkpoints = Path(config.init) / "checkpoints"

    def load_into(self, task: PretrainTask) -> dict[str, Any] | None:
        """Fill the task; returns the optimizer's state where there is one.

        Position codes stay those of the new clip shape. A model without a predictor of hidden tokens leaves it at random weights.
        """
        log.info("starting from %s", self.model)
        if list_checkpoints(self.checkpoints):
            state, own, where = load_newest(self.checkpoints), task.state_dict(), str(self.checkpoints)
            codes = {key: own[key] for key in own if key.endswith("pos_embed")}
            weights = state["model"] | codes
            check_weights(weights, task, where)
            load_weights(task, weights, where)
            return state.get("optimizer")
        for encoder in (task.jepa.encoder, task.jepa.target_encoder):
            encoder.load_state_dict(self.model.encoder.state_dict())
        if task.jepa.predictor is None:
            return None
        if not isinstance(self.model.predictor, Predictor):
            log.info("it has no predictor of hidden tokens: this one starts from random weights")
        else:
            task.jepa.predictor.load_state_dict(self.model.predictor.state_dict())
        return None
