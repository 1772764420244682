"""The losses of pretraining, and the views of a clip that some of them compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from openvjepa.config.ranges import Config, Range, Share, Weight
from openvjepa.errors import ConfigError

ViewScale: TypeAlias = Annotated[tuple[float, float], Range(1e-3, 1, ordered=True)]


@dataclass(frozen=True)
class ViewsConfig(Config):
    """Views of a clip, for the objective of that name: crops that differ in place, size and color, the same in all frames."""

    global_views: Annotated[int, Range(1, 16)] = 2
    """Large crops of each clip, of the model's img_size; the next latent is predicted in them, too."""
    global_scale: ViewScale = (0.4, 1.0)
    """Area of a global view as a share of the frame, least and most."""
    local_views: Annotated[int, Range(0, 32)] = 0
    """Small crops of each clip."""
    local_scale: ViewScale = (0.1, 0.4)
    """Area of a local view as a share of the frame, least and most."""
    local_size: Annotated[int, Range(1, 4096)] | None = None
    """Height and width of a local view, px; None: half of img_size, rounded down to whole patches."""
    color_jitter: Annotated[float, Range(0, 0.9)] = 0.4
    """Largest relative change of brightness and contrast; half of it for each color channel. 0: none."""
    token_keep: Annotated[float, Range(1e-3, 1)] = 1.0
    """Share of the patches of every tubelet that is encoded, drawn at random for each view."""


@dataclass(frozen=True)
class ObjectiveConfig(Config):
    """The loss: the sum of the objectives that have a weight, each with its regularizers.

    Masked prediction: mean |prediction - target| ** loss_exp / loss_exp. Next latent: LeWorldModel with a
    term for the variance within a clip. Views: LeJEPA.
    """

    masked_coeff: Weight = 1.0
    """Weight of masked prediction, with all of its terms below; 0: off, and there is no predictor of masked tokens."""
    next_coeff: Weight = 0.0
    """Weight of the prediction of the next latent, a mean squared error."""
    step_sigreg_coeff: Weight = 0.0
    """Weight of SIGReg on the latents of each time step (LeWorldModel: 0.1)."""
    within_coeff: Weight = 0.0
    """Weight of the terms that keep latents from standing still within a clip."""
    views_coeff: Weight = 0.0
    """Weight of the agreement of views."""
    views_sigreg: Share = 0.05
    """Share of SIGReg in the loss of the views (LeJEPA's lambda)."""
    projector_hidden: Annotated[int, Range(1, 65536)] = 512
    """Hidden width of the projectors of next latent and views."""
    projector_dim: Annotated[int, Range(1, 65536)] = 64
    """Width of the projected vectors."""
    directions: Annotated[int, Range(1, 65536)] = 256
    """Random directions of SIGReg for next latent and views."""
    target: Literal["features", "pixels"] = "features"
    """What is predicted: the target encoder's features, or the pixels of each token, normalized (the paper's baseline,
    Bardes et al. 2024, section 4.1; the released encoder is the average all the same)."""
    loss_exp: Annotated[float, Range(0, 16, above=True)] = 1.0
    """Exponent of the loss; 1: L1."""
    reg_coeff: Weight = 0.0
    """Weight of the variance term, which keeps the predictions from collapsing."""
    sigreg_coeff: Weight = 0.0
    """Weight of SIGReg on the context tokens, which keeps short runs of small models from collapsing (LeJEPA)."""
    context_coeff: Weight = 0.0
    """Weight of the loss on the visible tokens (V-JEPA 2.1's dense loss; needs predict_context)."""
    context_ramp: Annotated[tuple[float, float], Range(0, 1, ordered=True)] = (0.0, 0.0)
    """context_coeff is 0 until the first share of the steps, and grows linearly to its value at the second."""
    distance_weighting: bool = False
    """Visible tokens count less the farther they are from a predicted one: 1 / sqrt(distance in tokens) (V-JEPA 2.1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.masked_coeff or self.views_coeff or self.uses_next_latent):
            raise ConfigError("all objectives have the weight 0: set masked_coeff, next_coeff or views_coeff")

    @property
    def uses_next_latent(self) -> bool:
        """Whether a term on the latents of time steps has a weight."""
        return bool(self.next_coeff or self.step_sigreg_coeff or self.within_coeff)
