"""The video ViT (Bardes et al. 2024, section 3; spec section 1).

Shapes: B clips of 3 x T x H x W, N = t * h * w tokens of D channels, K of them kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from openvjepa.config import ModelConfig
from openvjepa.errors import ConfigError
from openvjepa.grid import TokenGrid
from openvjepa.model.layers import ENCODER_EPS, Block, gather_tokens, init_weights
from openvjepa.model.positions import interpolate_positions, position_codes


class PatchEmbed(nn.Module):
    """Cuts a clip into tubelets (an image into patches) and projects each to one token.

    The weights are those of a convolution, as in Meta's files; without overlap it is a matrix product over tubelets,
    which is several times faster on CPUs and need only see the tokens that are kept.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.is_image = config.num_frames == 1
        patch, dim = config.patch_size, config.dims.embed_dim
        self.kernel = (1 if self.is_image else config.tubelet_size, patch, patch)
        self.proj: nn.Conv2d | nn.Conv3d
        if self.is_image:
            self.proj = nn.Conv2d(3, dim, patch, stride=patch)
        else:
            self.proj = nn.Conv3d(3, dim, self.kernel, stride=self.kernel)

    def grid(self, video: Tensor) -> TokenGrid:
        """Token grid of a clip [B, 3, T, H, W].

        Raises:
            ConfigError: it does not divide into whole tubelets and patches, or is not what the model takes.
        """
        if video.ndim != 5 or video.shape[1] != 3:
            raise ConfigError(f"a batch of clips has the shape [B, 3, T, H, W], not {list(video.shape)}")
        frames, height, width = video.shape[2:]
        if self.is_image and frames > 1:
            raise ConfigError(f"an image model (num_frames 1) takes one frame at a time, not {frames}")
        tubelet_size, patch_size, _ = self.kernel
        return TokenGrid.of_clip(frames, height, width, patch_size=patch_size, tubelet_size=tubelet_size)

    def tubelets(self, video: Tensor) -> Tensor:
        """Pixels of every token, [B, 3, T, H, W] -> [B, N, 3 * tubelet * patch * patch].

        A single frame shown to a video model is repeated to one tubelet.
        """
        if video.shape[2] == 1:
            video = video.expand(-1, -1, self.kernel[0], -1, -1)
        for axis, size in enumerate(self.kernel, start=2):
            video = video.unfold(axis, size, size)  # ends as [B, 3, t, h, w, tubelet, patch, patch]
        return video.permute(0, 2, 3, 4, 1, 5, 6, 7).flatten(4).flatten(1, 3)

    def project(self, tubelets: Tensor) -> Tensor:
        """[B, K, 3 * tubelet * patch * patch] -> [B, K, D]."""
        return F.linear(tubelets, self.proj.weight.flatten(1), self.proj.bias)

    def forward(self, video: Tensor) -> Tensor:
        """[B, 3, T, H, W] -> [B, N, D]."""
        return self.project(self.tubelets(video))


class Encoder(nn.Module):
    """ViT over the tokens of a clip.

    Takes clips of any length and size that divide into tubelets and patches: positions are interpolated where the shape
    differs from the one in the configuration. A single frame shown to a video model counts as one tubelet in the middle
    of the clip (the published image probes repeat the image to a whole clip instead: repeat it before the call).
    Parameters carry the names of Meta's files.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        dims = config.dims
        self.embed_dim, self.num_heads = dims.embed_dim, dims.num_heads
        self.patch_embed = PatchEmbed(config)
        self.pos_embed = nn.Parameter(position_codes(dims.embed_dim, config), requires_grad=False)
        self.blocks = nn.ModuleList(Block(dims.embed_dim, dims.num_heads, dims.mlp_ratio) for _ in range(dims.depth))
        self.norm = nn.LayerNorm(dims.embed_dim, eps=ENCODER_EPS)
        self.apply(init_weights)

    def forward(
        self, video: Tensor, ids: Tensor | Sequence[Tensor] | None = None, out_layers: Sequence[int] | None = None
    ) -> Tensor | list[Tensor] | list[list[Tensor]]:
        """Tokens of a clip.

        Args:
            video: float [B, 3, T, H, W], normalised.
            ids: int64 [B, K], the tokens to keep (context); several of them (K may differ): one pass for each; None:
                all tokens.
            out_layers: blocks (from 0) whose outputs are wanted, each through the final norm; None: the last one.

        Returns:
            [B, N, D], or [B, K, D] with ids; a list with several ids, one entry for each; with out_layers a list of
            them in place of each.

        Raises:
            ConfigError: the clip does not divide into whole tubelets and patches.
        """
        codes, tubelets = self.positions(video), self.patch_embed.tubelets(video)
        if ids is None or isinstance(ids, Tensor):
            return self._encode(tubelets, codes, ids, out_layers)
        return [self._encode(tubelets, codes, kept, out_layers) for kept in ids]  # pyright: ignore[reportReturnType]

    def positions(self, video: Tensor) -> Tensor:
        """Position codes of a clip's tokens, [1, N, D]."""
        grid = self.patch_embed.grid(video)
        return interpolate_positions(self.pos_embed, self.config.grid, grid, image=self.patch_embed.is_image)

    def embed(self, video: Tensor) -> Tensor:
        """Input of the first block: patch embedding plus position, [B, N, D]."""
        return self.patch_embed(video) + self.positions(video)

    def _encode(
        self, tubelets: Tensor, codes: Tensor, ids: Tensor | None, out_layers: Sequence[int] | None
    ) -> Tensor | list[Tensor]:
        if ids is not None:  # before the projection: the same numbers, less work
            tubelets, codes = gather_tokens(tubelets, ids), gather_tokens(codes.expand(len(tubelets), -1, -1), ids)
        x = self.patch_embed.project(tubelets) + codes
        outputs: dict[int, Tensor] = {}
        for layer, block in enumerate(self.blocks):
            x = block(x)
            if out_layers is not None and layer in out_layers:
                outputs[layer] = self.norm(x)
        return self.norm(x) if out_layers is None else [outputs[layer] for layer in out_layers]


def create_model(config: ModelConfig | str) -> Encoder:
    """A new encoder with random weights.

    Args:
        config: a ModelConfig, or the name of a size such as "vit_tiny" (16 frames of 224 px).

    Raises:
        ConfigError: unknown name or impossible geometry.
    """
    return Encoder(ModelConfig(arch=config) if isinstance(config, str) else config)
