"""TokenGrid: the only place that divides frames by the tubelet and pixels by the patch."""

from __future__ import annotations

from dataclasses import dataclass

from openvjepa.errors import ConfigError


@dataclass(frozen=True)
class TokenGrid:
    """The grid of tokens of a clip: `t` tubelets of `h` x `w` patches.

    Token id = t_index * h * w + h_index * w + w_index: frame-major, then row, then column.
    """

    t: int
    h: int
    w: int

    @classmethod
    def of_clip(cls, frames: int, height: int, width: int, *, patch_size: int, tubelet_size: int) -> TokenGrid:
        """Grid of a clip of `frames` x `height` x `width` pixels.

        A single frame is an image: one token deep, whatever the tubelet. Remainders are an error, since a convolution
        would drop them silently.

        Raises:
            ConfigError: the clip does not divide into whole tubelets and patches.
        """
        tubelet = 1 if frames == 1 else tubelet_size
        if (
            min(frames, tubelet, patch_size) < 1
            or frames % tubelet
            or min(height, width) < patch_size
            or height % patch_size
            or width % patch_size
        ):
            raise ConfigError(
                f"a clip of {frames} frames of {height} x {width} px does not divide into tubelets of {tubelet} frames "
                f"and patches of {patch_size} px: choose a multiple of each"
            )
        return cls(frames // tubelet, height // patch_size, width // patch_size)

    @property
    def tokens_per_frame(self) -> int:
        """Tokens in one time step (h * w)."""
        return self.h * self.w

    @property
    def tokens(self) -> int:
        """Tokens in the clip (t * h * w)."""
        return self.t * self.h * self.w

    @property
    def shape(self) -> tuple[int, int, int]:
        """(t, h, w)."""
        return self.t, self.h, self.w
