"""The projector against frames stacked by hand."""

from __future__ import annotations

import pytest
import torch

from slamlab.model.projector import Projector

WIDTH, STACK, HIDDEN, DECODER_WIDTH = 6, 3, 10, 8


@pytest.fixture
def projector() -> Projector:
    torch.manual_seed(0)
    made = Projector(encoder_width=WIDTH, stack=STACK, hidden=HIDDEN, decoder_width=DECODER_WIDTH)
    with torch.no_grad():  # a norm as it is made does nothing worth testing
        made.norm.weight.uniform_(0.5, 1.5)
        made.norm.bias.uniform_(-1, 1)
    return made.eval()


def by_hand(projector: Projector, frames: torch.Tensor) -> torch.Tensor:
    """Project one utterance [T, W], position by position."""
    positions = []
    for begin in range(0, len(frames), STACK):
        group = [frames[i] if i < len(frames) else torch.zeros(WIDTH) for i in range(begin, begin + STACK)]
        vector = torch.cat(group)
        normed = (vector - vector.mean()) / torch.sqrt(vector.var(unbiased=False) + 1e-5)
        hidden = projector.up.weight @ (normed * projector.norm.weight + projector.norm.bias) + projector.up.bias
        gelu = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        positions.append(projector.down.weight @ gelu + projector.down.bias)
    return torch.stack(positions)


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 9, 11])
def test_positions_are_stacked_frames_projected(num_frames: int, projector: Projector) -> None:
    frames = torch.randn(2, num_frames, WIDTH, generator=torch.Generator().manual_seed(1))
    out = projector(frames)
    assert out.shape == (2, projector.num_positions(num_frames), DECODER_WIDTH)
    for row, utterance in zip(out, frames, strict=True):
        torch.testing.assert_close(row, by_hand(projector, utterance), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("num_frames", "expected"), [(0, 0), (1, 1), (3, 1), (4, 2), (6, 2), (7, 3)])
def test_positions_are_counted_up(num_frames: int, expected: int, projector: Projector) -> None:
    assert projector.num_positions(num_frames) == expected


@pytest.mark.parametrize("num_padding", [1, 2, 3, 10])
def test_padding_changes_no_position_of_an_utterance(num_padding: int, projector: Projector) -> None:
    frames = torch.randn(1, 7, WIDTH, generator=torch.Generator().manual_seed(1))
    padded = projector(torch.nn.functional.pad(frames, (0, 0, 0, num_padding)))
    torch.testing.assert_close(padded[:, :3], projector(frames), rtol=1e-6, atol=1e-6)
