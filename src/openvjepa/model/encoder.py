"""The video ViT of V-JEPA 1, 2 and 2.1 (Bardes et al. 2024, section 3; Assran et al. 2025; arXiv 2603.14482).

Shapes: B clips of 3 x T x H x W, N = t * h * w tokens of D channels, K of them kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvjepa.config import ModelConfig
from openvjepa.errors import ConfigError
from openvjepa.grid import TokenGrid
from openvjepa.model.blocks.layers import (
    ENCODER_EPS,
    Block,
    gather_tokens,
    init_weights,
    modality_embeddings,
    rescale_blocks,
    run_block,
)
from openvjepa.model.blocks.positions import interpolate_positions, position_codes, rope_of


def cut_tubelets(video: Tensor, kernel: tuple[int, int, int]) -> Tensor:
    """Pixels of every token for a kernel (tubelet, patch, patch): [B, 3, T, H, W] -> [B, N, 3 * tubelet * patch * patch]."""
    for axis, size in enumerate(kernel, start=2):
        video = video.unfold(axis, size, size)  # ends as [B, 3, t, h, w, tubelet, patch, patch]
    return video.permute(0, 2, 3, 4, 1, 5, 6, 7).flatten(4).flatten(1, 3)


class PatchEmbed(nn.Module):
    """Cuts a clip into tubelets (an image into patches) and projects each to one token.

    The weights are those of a convolution, as in Meta's files; without overlap it is a matrix product over tubelets,
    which is several times faster on CPUs and need only see the tokens that are kept.

    Args:
        embed_dim: D.
        patch_size: side of a patch, px.
        tubelet_size: frames in a tubelet; None: an image model, with a kernel of two dimensions.
    """

    def __init__(self, embed_dim: int, patch_size: int, tubelet_size: int | None) -> None:
        super().__init__()
        self.kernel = (tubelet_size or 1, patch_size, patch_size)
        self.proj: nn.Conv2d | nn.Conv3d
        if tubelet_size is None:
            self.proj = nn.Conv2d(3, embed_dim, patch_size, stride=patch_size)
        else:
            self.proj = nn.Conv3d(3, embed_dim, self.kernel, stride=self.kernel)

    def tubelets(self, video: Tensor) -> Tensor:
        """Pixels of every token, [B, 3, T, H, W] -> [B, N, 3 * tubelet * patch * patch].

        A single frame shown to a video model is repeated to one tubelet.
        """
        if video.shape[2] == 1:
            video = video.expand(-1, -1, self.kernel[0], -1, -1)
        return cut_tubelets(video, self.kernel)

    def project(self, tubelets: Tensor) -> Tensor:
        """[B, K, 3 * tubelet * patch * patch] -> [B, K, D]."""
        return F.linear(tubelets, self.proj.weight.flatten(1), self.proj.bias)

    def forward(self, video: Tensor) -> Tensor:
        """[B, 3, T, H, W] -> [B, N, D]."""
        return self.project(self.tubelets(video))


class Encoder(nn.Module):
    """ViT over the tokens of a clip.

    Takes clips of any length and size that divide into tubelets and patches. With sin-cos codes (V-JEPA 1) positions are
    interpolated where the shape differs from the one in the configuration, and a single frame counts as one tubelet in the
    middle of the clip; rotary positions (V-JEPA 2) count tokens from 0. The published image probes repeat the image to a
    whole clip: repeat it before the call. With `modality_embed` (V-JEPA 2.1) a single frame is an image and has a path of
    its own. Parameters carry the names of Meta's files.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        dims = config.dims
        self.embed_dim, self.num_heads = dims.embed_dim, dims.num_heads
        self.checkpointing = False
        is_image = config.num_frames == 1 and not config.modality_embed
        self.patch_embed = PatchEmbed(dims.embed_dim, config.patch_size, None if is_image else config.tubelet_size)
        if config.modality_embed:
            self.patch_embed_img = PatchEmbed(dims.embed_dim, config.patch_size, 1)
            self.img_mod_embed, self.video_mod_embed = modality_embeddings(dims.embed_dim)
        if config.positions == "sincos":
            self.pos_embed = nn.Parameter(position_codes(dims.embed_dim, config), requires_grad=False)
        self.blocks = nn.ModuleList(
            Block(dims.embed_dim, dims.num_heads, dims.mlp_ratio, swiglu=config.mlp == "swiglu")
            for _ in range(dims.depth)
        )
        if config.levels:
            self.norms_block = nn.ModuleList(nn.LayerNorm(dims.embed_dim, eps=ENCODER_EPS) for _ in config.levels)
        else:
            self.norm = nn.LayerNorm(dims.embed_dim, eps=ENCODER_EPS)
        self.apply(init_weights)
        if config.positions != "sincos":
            rescale_blocks(self.blocks)

    def forward(
        self, video: Tensor, ids: Tensor | None = None, *, num_levels: int = 1, output_positions: bool = True
    ) -> Tensor:
        """Tokens of a clip.

        Args:
            video: float [B, 3, T, H, W], normalized.
            ids: int64 [B, K], the tokens to keep (context); None: all tokens.
            num_levels: so many of the model's levels, from the last one back, side by side as channels (V-JEPA 2.1).
            output_positions: False leaves out the position codes that a model with this setting adds to its output.

        Returns:
            [B, N, num_levels * D], or [B, K, num_levels * D] with ids.

        Raises:
            ConfigError: the clip does not divide into whole tubelets and patches, or the model has fewer levels.
        """
        levels = self.config.levels or (len(self.blocks) - 1,)
        if not 1 <= num_levels <= len(levels):
            raise ConfigError(f"num_levels {num_levels}: the model has {len(levels)}")
        outputs = self._outputs(video, ids, levels[-num_levels:], output_positions=output_positions)
        return outputs[0] if num_levels == 1 else torch.cat(outputs, dim=-1)

    def forward_masks(self, video: Tensor, masks: Sequence[Tensor], *, num_levels: int = 1) -> list[Tensor]:
        """The tokens that each of several masks keeps: one pass, and one call of the module, for each.

        Args:
            video: float [B, 3, T, H, W], normalized.
            masks: ids of the tokens to keep, int64 [B, K]; K may differ from mask to mask.
            num_levels: as for `forward`.

        Returns:
            [B, K, num_levels * D] for each mask.

        Raises:
            ConfigError: as `forward`.
        """
        return [self(video, ids, num_levels=num_levels) for ids in masks]

    def forward_intermediates(self, video: Tensor, layers: Sequence[int], ids: Tensor | None = None) -> list[Tensor]:
        """Tokens after inner blocks, each through the final norm, or through its own where the model has levels.

        Args:
            video: float [B, 3, T, H, W], normalized.
            layers: blocks, from 0, or negative from the end.
            ids: int64 [B, K], the tokens to keep; None: all tokens.

        Returns:
            [B, N, D], or [B, K, D] with ids, for each layer, in the order asked for.

        Raises:
            ConfigError: the clip does not divide into whole tubelets and patches, or there is no such layer.
        """
        return self._outputs(video, ids, self._chosen(layers), output_positions=True)

    def _outputs(
        self, video: Tensor, ids: Tensor | None, layers: Sequence[int], *, output_positions: bool
    ) -> list[Tensor]:
        grid, is_image = self.grid(video), self._is_image(video)
        tubelets = self._patch_embed(is_image).tubelets(video)
        outputs = self._run(self._embed(tubelets, grid, ids, is_image=is_image), grid, ids, layers)
        if self.config.output_positions and output_positions:
            codes = self._kept_codes(self._codes(grid), ids, len(video))
            outputs = [output + codes for output in outputs]
        return outputs

    def grid(self, video: Tensor) -> TokenGrid:
        """Token grid of a clip [B, 3, T, H, W].

        Raises:
            ConfigError: it does not divide into whole tubelets and patches, or is not what the model takes.
        """
        if video.ndim != 5 or video.shape[1] != 3:
            raise ConfigError(f"a batch of clips has the shape [B, 3, T, H, W], not {list(video.shape)}")
        frames, height, width = video.shape[2:]
        if self.config.num_frames == 1 and frames > 1 and not self.config.modality_embed:
            raise ConfigError(f"an image model (num_frames 1) takes one frame at a time, not {frames}")
        tubelet_size = self.patch_embed.kernel[0]
        return TokenGrid.of_clip(frames, height, width, patch_size=self.config.patch_size, tubelet_size=tubelet_size)

    def positions(self, video: Tensor) -> Tensor:
        """Sin-cos codes of a clip's tokens, [1, N, D]."""
        return self._codes(self.grid(video))

    def embed(self, video: Tensor) -> Tensor:
        """Input of the first block: patch embedding, with modality embedding and sin-cos position; [B, N, D]."""
        is_image = self._is_image(video)
        return self._embed(self._patch_embed(is_image).tubelets(video), self.grid(video), None, is_image=is_image)

    def _is_image(self, video: Tensor) -> bool:
        return self.config.modality_embed and video.shape[2] == 1

    def _patch_embed(self, is_image: bool) -> PatchEmbed:
        return self.patch_embed_img if is_image else self.patch_embed

    def _codes(self, grid: TokenGrid) -> Tensor:
        return interpolate_positions(self.pos_embed, self.config.grid, grid, image=self.config.num_frames == 1)

    def _embed(self, tubelets: Tensor, grid: TokenGrid, ids: Tensor | None, *, is_image: bool) -> Tensor:
        if ids is not None:  # before the projection: the same numbers, less work
            tubelets = gather_tokens(tubelets, ids)
        x = self._patch_embed(is_image).project(tubelets)
        if self.config.modality_embed:
            x = x + (self.img_mod_embed if is_image else self.video_mod_embed)
        if self.config.positions == "sincos":
            codes = self._codes(grid)
            if self.config.time_attention == "tubelet":  # all tubelets as if they were the first one
                codes = codes[:, : grid.tokens_per_frame].repeat(1, grid.t, 1)
            x = x + self._kept_codes(codes, ids, len(x))
        return x

    @staticmethod
    def _kept_codes(codes: Tensor, ids: Tensor | None, batch: int) -> Tensor:
        """Of codes [1, N, D] those of the tokens that are kept: [1, N, D], or [B, K, D]."""
        return codes if ids is None else gather_tokens(codes.expand(batch, -1, -1), ids)

    def _run(self, x: Tensor, grid: TokenGrid, ids: Tensor | None, layers: Sequence[int]) -> list[Tensor]:
        """Normed outputs of these layers, in their order."""
        rope = rope_of(self.config, ids, grid, self.num_heads, x, interpolate=self.config.interpolate_rope)
        batch, mask = len(x), None
        if self.config.time_attention == "tubelet" and ids is None and rope is None:
            x = x.reshape(batch * grid.t, grid.tokens_per_frame, -1)  # the same numbers as with a mask, less work
        else:
            mask = self._mask(ids, grid, x.device)
        outputs: dict[int, Tensor] = {}
        for layer, block in enumerate(self.blocks[: max(layers) + 1]):
            x = run_block(block, x, rope, mask, checkpointing=self.checkpointing)
            if layer in layers:
                norm = self.norms_block[self.config.levels.index(layer)] if self.config.levels else self.norm
                outputs[layer] = norm(x).reshape(batch, -1, self.embed_dim)
        return [outputs[layer] for layer in layers]

    def _mask(self, ids: Tensor | None, grid: TokenGrid, device: torch.device) -> Tensor | None:
        """Who may look at whom, bool [K, K] or [B, 1, K, K] with ids; None: everybody."""
        if self.config.time_attention == "full" or grid.t == 1:
            return None
        ids = torch.arange(grid.tokens, device=device) if ids is None else ids
        times = ids // grid.tokens_per_frame
        looking, seen = times[..., :, None], times[..., None, :]
        mask = looking >= seen if self.config.time_attention == "causal" else looking == seen
        return mask if mask.ndim == 2 else mask[:, None]

    def _chosen(self, layers: Sequence[int]) -> Sequence[int]:
        """These blocks, counted from 0; only those that a model with levels has norms for."""
        count = len(self.blocks)
        known = self.config.levels or tuple(range(count))
        chosen = [layer + count if layer < 0 else layer for layer in layers]
        if not chosen or any(layer not in known for layer in chosen):
            which = ", ".join(map(str, known))
            raise ConfigError(f"layers {list(layers)}: this encoder has the outputs of blocks {which}")
        return chosen


def create_model(config: ModelConfig | str) -> Encoder:
    """A new encoder with random weights.

    Args:
        config: a ModelConfig, or the name of a size such as "vit_tiny" (16 frames of 224 px).

    Raises:
        ConfigError: unknown name or impossible geometry.
    """
    return Encoder(ModelConfig(arch=config) if isinstance(config, str) else config)
