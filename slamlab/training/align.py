"""A first lesson for a projector: to say, position by position, which token of the transcript it hears.

A frozen decoder teaches a projector slowly: for thousands of steps the loss says little about single sounds. So the
projector first learns by connectionist temporal classification (Graves et al. 2006, ICML) against the decoder's own
input embeddings: what it writes at a position should point at the embedding of the token heard there, or at a blank.
No decoder layer runs, and only tokens that occur stand for choice.

Shape legend: B batch, S positions, D decoder width, V tokens that occur.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from slamlab.data.batching import Example
from slamlab.model.slam import SlamModel

FIRST_SCALE, NORM_WEIGHT = 20.0, 1.0
"""What cosines are multiplied by at first (it is learned), and what a position's length weighs against CTC."""


class Aligner(nn.Module):
    """A projector with what its outputs are compared to.

    The loss is that of CTC over cosines, in nats a token, plus the squared relative distance of a position's length
    from the mean length of embeddings: a decoder's residual stream starts from vectors of that length, and with plain
    dot products positions grew to seven times it.

    Args:
        model: Whose projector is taught, in place; its decoder is only read.
        tokens: Token ids that occur.
    """

    def __init__(self, model: SlamModel, tokens: Iterable[int]) -> None:
        super().__init__()
        self.projector = model.projector
        self._index = {token: i for i, token in enumerate(sorted(set(tokens)), 1)}  # 0 is the blank
        embeddings = model.decoder.get_input_embeddings().weight.detach()[sorted(self._index)].float()  # [V, D]
        self.embeddings: torch.Tensor
        self.register_buffer("embeddings", nn.functional.normalize(embeddings, dim=-1))
        self.norm = float(embeddings.norm(dim=-1).mean())
        self.blank = nn.Parameter(self.embeddings.mean(0))
        self.log_scale = nn.Parameter(torch.tensor([FIRST_SCALE]).log())

    def forward(self, examples: Sequence[Example]) -> torch.Tensor:
        """Return the mean loss of examples whose source is speech."""
        rows = [torch.as_tensor(example.source).to(self.blank) for example in examples]
        lengths = [self.projector.num_positions(len(row)) for row in rows]
        projected = self.projector(nn.utils.rnn.pad_sequence(rows, batch_first=True)).float()  # [B, S, D]
        table = torch.cat([nn.functional.normalize(self.blank[None].float(), dim=-1), self.embeddings])
        cosines = nn.functional.normalize(projected, dim=-1) @ table.T  # [B, S, V + 1]
        log_probabilities = (self.log_scale.float().exp() * cosines).log_softmax(-1).transpose(0, 1)
        answers = [[self._index[token] for token in example.answer[:-1]] for example in examples]  # without the end
        loss = nn.functional.ctc_loss(
            log_probabilities,
            torch.tensor([token for answer in answers for token in answer], device=self.blank.device),
            torch.tensor(lengths),
            torch.tensor([len(answer) for answer in answers]),
            zero_infinity=True,  # of more tokens than positions
        )
        own = torch.cat([row[:length] for row, length in zip(projected, lengths, strict=True)])
        return loss + NORM_WEIGHT * (own.norm(dim=-1) / self.norm - 1).square().mean()
