"""The projector of SLAM-ASR (Ma et al., arXiv 2402.08846): stack frames, one hidden layer, GELU.

Deviation: a layer norm on the stacked frames, so that one learning rate serves encoders of any scale.

Shapes: B batch, T encoder frames, W encoder width, k stack factor, S = ceil(T / k) audio positions, D decoder width.
"""

from __future__ import annotations

import torch
from torch import nn


class Projector(nn.Module):
    """Map encoder frames [B, T, W] to decoder inputs [B, ceil(T / k), D].

    Args:
        encoder_width: W.
        stack: k, the frames joined into one position.
        hidden: Width of the hidden layer.
        decoder_width: D.
    """

    def __init__(self, *, encoder_width: int, stack: int, hidden: int, decoder_width: int) -> None:
        super().__init__()
        self.stack = stack
        self.norm = nn.LayerNorm(stack * encoder_width)
        self.up = nn.Linear(stack * encoder_width, hidden)
        self.down = nn.Linear(hidden, decoder_width)

    def num_positions(self, num_frames: int) -> int:
        """Return how many decoder positions an utterance of `num_frames` frames takes."""
        return -(-num_frames // self.stack)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Project padded frames; an utterance's positions depend on its own frames alone.

        Args:
            frames: [B, T, W], zeros past the end of an utterance.

        Returns:
            [B, ceil(T / k), D]; the positions past an utterance's own are meaningless.
        """
        batch, num_frames, width = frames.shape
        frames = nn.functional.pad(frames, (0, 0, 0, -num_frames % self.stack))
        stacked = frames.reshape(batch, -1, self.stack * width)  # [B, S, k * W]
        return self.down(nn.functional.gelu(self.up(self.norm(stacked))))
