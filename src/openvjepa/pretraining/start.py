"""Where a pretraining run starts from, if not from random weights (`--init`)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
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
        model = replace(self.model.config, predictor_kind="masked")
        if model.predictor_out_dim not in (None, model.predictor_levels * model.dims.embed_dim):
            model = replace(model, predictor_out_dim=None)  # it predicted the features of a teacher, or pixels
        self.config = replace(config, model=model)
        self.checkpoints = Path(config.init) / "checkpoints"

    def load_into(self, task: PretrainTask) -> dict[str, Any] | None:
        """Fill the task; returns the optimizer's state where there is one.

        Position codes stay those of the new clip shape. A model without a predictor of hidden tokens, or with one of other
        shapes, leaves it at random weights. The optimizer's state is kept where both runs train all of the encoder with the same
        objectives.
        """
        log.info("starting from %s", self.model)
        state = load_newest(self.checkpoints) if list_checkpoints(self.checkpoints) else None
        own, where = task.state_dict(), str(self.checkpoints)
        whole = state is not None and {self.config.tune, _tune_of(state)} == {"all"}
        if state is not None and whole and own.keys() == state["model"].keys():  # with the same objectives
            codes = {key: own[key] for key in own if key.endswith("pos_embed")}
            weights = state["model"] | codes
            check_weights(weights, task, where)
            load_weights(task, weights, where)
            return state.get("optimizer")
        for encoder in (task.jepa.encoder, task.jepa.target_encoder):
            encoder.load_state_dict(self.model.encoder.state_dict())
        if task.jepa.predictor is not None:
            self._fill_predictor(task.jepa.predictor)
        if self.config.tune != "all":
            config = self.config
            task.jepa.adapt(config.tune, last_blocks=config.last_blocks, lora_rank=config.lora_rank)
        return None

    def _fill_predictor(self, own: Predictor) -> None:
        if not isinstance(self.model.predictor, Predictor):
            log.info("it has no predictor of hidden tokens: this one starts from random weights")
            return
        weights = self.model.predictor.state_dict()
        shapes = {name: value.shape for name, value in weights.items()}
        if shapes == {name: value.shape for name, value in own.state_dict().items()}:
            own.load_state_dict(weights)
        else:
            log.info("its predictor predicts something else: this one starts from random weights")


def _tune_of(state: Mapping[str, Any]) -> str:
    """What the run of a checkpoint trained of its encoder."""
    config = state.get("config")
    return str(config.get("tune", "all")) if isinstance(config, dict) else "all"
