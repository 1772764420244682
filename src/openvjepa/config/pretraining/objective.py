"""Settings of the pretraining losses and of the views of a clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from openvjepa.config.ranges import Config, Range, Share, Weight
from openvjepa.errors import ConfigError

ViewScale: TypeAlias = Annotated[tuple[float, float], Range(1e-3, 1, ordered=True)]


@dataclass(frozen=True)
class ViewsConfig(Config):
    """Views for the views objective: crops that differ in position, size and color, the same in all frames."""

    global_views: Annotated[int, Range(1, 16)] = 2
    """Large crops per clip, resized to img_size; also used by the next-latent objective."""
    global_scale: ViewScale = (0.4, 1.0)
    """Range of the area of a global view, as a fraction of the frame."""
    local_views: Annotated[int, Range(0, 32)] = 0
    """Small crops per clip."""
    local_scale: ViewScale = (0.1, 0.4)
    """Range of the area of a local view, as a fraction of the frame."""
    local_size: Annotated[int, Range(1, 4096)] | None = None
    """Height and width of a local view, px; None: half of img_size, rounded down to whole patches."""
    color_jitter: Annotated[float, Range(0, 0.9)] = 0.4
    """Strength of brightness and contrast jitter; half as strong per color channel. 0: off."""
    token_keep: Annotated[float, Range(1e-3, 1)] = 1.0
    """Fraction of the patches of every tubelet that is encoded, sampled at random for each view."""


@dataclass(frozen=True)
class ObjectiveConfig(Config):
    """Loss: a weighted sum of objectives and their regularizers.

    Masked prediction: mean |prediction - target| ** loss_exp / loss_exp. Next latent: LeWorldModel with a
    term for the variance within a clip. Views: LeJEPA.
    """

    masked_coeff: Weight = 1.0
    """Weight of masked prediction, including its terms below; 0: off (no masked-token predictor is built)."""
    next_coeff: Weight = 0.0
    """Weight of next-latent prediction (mean squared error)."""
    step_sigreg_coeff: Weight = 0.0
    """Weight of SIGReg on the latents of each time step (LeWorldModel: 0.1)."""
    within_coeff: Weight = 0.0
    """Weight of the variance of the latents within a clip, which prevents constant latents."""
    views_coeff: Weight = 0.0
    """Weight of the views objective (LeJEPA)."""
    views_sigreg: Share = 0.05
    """Weight of SIGReg in the views objective (lambda of LeJEPA)."""
    projector_hidden: Annotated[int, Range(1, 65536)] = 512
    """Hidden width of the projectors of next latent and views."""
    projector_dim: Annotated[int, Range(1, 65536)] = 64
    """Width of the projected vectors."""
    directions: Annotated[int, Range(1, 65536)] = 256
    """Random projections of SIGReg for next latent and views."""
    target: Literal["features", "pixels"] = "features"
    """Prediction target: features of the target encoder, or normalized pixels of each token (baseline of Bardes et al. 2024,
    section 4.1; the EMA encoder is saved in both cases)."""
    loss_exp: Annotated[float, Range(0, 16, above=True)] = 1.0
    """Exponent of the loss; 1: L1."""
    reg_coeff: Weight = 0.0
    """Weight of the variance regularizer of the predictions (V-JEPA)."""
    sigreg_coeff: Weight = 0.0
    """Weight of SIGReg on the context tokens, which prevents collapse in short runs of small models (LeJEPA)."""
    context_coeff: Weight = 0.0
    """Weight of the loss on the visible tokens (V-JEPA 2.1's dense loss; needs predict_context)."""
    context_ramp: Annotated[tuple[float, float], Range(0, 1, ordered=True)] = (0.0, 0.0)
    """Start and end of the linear ramp of context_coeff from 0, as fractions of all steps."""
    distance_weighting: bool = False
    """Weight visible tokens by 1 / sqrt(distance to the nearest predicted token) (V-JEPA 2.1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.masked_coeff or self.views_coeff or self.uses_next_latent):
            raise ConfigError("all objectives have weight 0: set masked_coeff, next_coeff or views_coeff")

    @property
    def uses_next_latent(self) -> bool:
        """Whether a term on the latents of time steps has a nonzero weight."""
        return bool(self.next_coeff or self.step_sigreg_coeff or self.within_coeff)
