"""A first lesson for a projector: to say, position by position, which token of the transcript it hears.

A frozen decoder teaches a projector slowly: for thousands of steps the loss says little about single sounds. So the
projector first learns by connectionist temporal classification (Graves et al. 2006, ICML) against the decoder's own
input embeddings: what it writes at a position should point at the embedding of the token heard there, or at a blank.
No decoder layer runs, and only tokens that occur stand for choice. The blank is a token that a decoder reads over: with
three of five positions filled with "_", SmolLM2-135M-Instruct repeated 12 sentences at 0.76 nats a token, at 3.50 with
the mean of all embeddings (0.43 with nothing between).

Shape legend: B batch, S positions, D decoder width, V tokens that occur.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from slamlab.data.batching import Example
from slamlab.model.slam import SlamModel

BLANK = "_"
SURE, PULL_WEIGHT = 0.95, 1.0
"""Probability of a token whose embedding a position equals; what the distance from embeddings weighs beside CTC."""


class Aligner(nn.Module):
    """A projector with what its outputs are compared to.

    The loss is that of CTC over cosines, in nats a token, plus the squared distance of a position from the embedding
    that it comes closest to, relative to the mean length of embeddings: those are what the decoder can read, and with
    plain dot products positions grew to seven times their length. What cosines are multiplied by is fixed: where it
    was learned it grew, so that a position half way to an embedding was as sure as one that is there.

    Args:
        model: Whose projector is taught, in place; its decoder is only read.
        tokens: Token ids that occur.
    """

    def __init__(self, model: SlamModel, tokens: Iterable[int]) -> None:
        super().__init__()
        self.projector = model.projector
        blank = model.tokenizer.encode(BLANK, add_special_tokens=False)[0]
        self.symbols = [blank, *sorted(set(tokens) - {blank})]
        self._index = {token: i for i, token in enumerate(self.symbols)}
        self.embeddings: torch.Tensor  # [V, D], the blank's first
        self.register_buffer("embeddings", model.decoder.get_input_embeddings().weight.detach()[self.symbols].float())
        # A cosine of 1, against 0 for all others.
        self.scale = math.log(len(self.symbols) * SURE / (1 - SURE))

    def forward(self, examples: Sequence[Example]) -> torch.Tensor:
        """Return the mean loss of examples whose source is speech."""
        rows = [torch.as_tensor(example.source).to(self.projector.up.weight) for example in examples]
        lengths = [self.projector.num_positions(len(row)) for row in rows]
        projected = self.projector(nn.utils.rnn.pad_sequence(rows, batch_first=True)).float()  # [B, S, D]
        embeddings, normalize = self.embeddings.float(), nn.functional.normalize
        cosines = normalize(projected, dim=-1) @ normalize(embeddings, dim=-1).T  # [B, S, V]
        log_probabilities = (self.scale * cosines).log_softmax(-1).transpose(0, 1)
        spoken = [example.answer[:-1] for example in examples]  # without the end
        answers = [[i for token in answer if (i := self._index[token])] for answer in spoken]  # 0 is the blank
        loss = nn.functional.ctc_loss(
            log_probabilities,
            torch.tensor([token for answer in answers for token in answer], device=projected.device),
            torch.tensor(lengths),
            torch.tensor([len(answer) for answer in answers]),
            zero_infinity=True,  # of more tokens than positions
        )
        closest = embeddings[cosines.detach().argmax(-1)]  # [B, S, D]
        distance = (projected - closest).square().sum(-1) / embeddings.norm(dim=-1).mean().square()  # [B, S]
        own = torch.cat([row[:length] for row, length in zip(distance, lengths, strict=True)])
        return loss + PULL_WEIGHT * own.mean()
