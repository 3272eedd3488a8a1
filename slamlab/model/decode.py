"""Greedy answers to many sequences of decoder inputs at once, the same as one by one.

Rows are padded on the left under an attention mask, so in float32 a row's tokens do not depend on its neighbours (in
bfloat16 near-ties may fall either way). What a checkpoint's generation config asks for (sampling, penalties) is set
aside: a score is of the greedy answer.

An unhealed or badly healed model may repeat itself for ever; a row ends when it does.

Shapes: B batch, N positions, D decoder width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from slamlab.errors import OptionError
from slamlab.model.slam import left_pad

LOOP_REPEATS, LOOP_TOKENS = 4, 8
"""A row loops when it ends in LOOP_REPEATS copies of the same 1 ... LOOP_TOKENS tokens."""


@dataclass(frozen=True, kw_only=True)
class Generated:
    """An answer.

    Attributes:
        tokens: Without the end token; of a loop, what there is up to the last repetition.
        stopped: Why it ended: the end token, the row's cap, or a loop.
    """

    tokens: list[int]
    stopped: Literal["eos", "length", "loop"]


def generate(
    decoder: Any,
    sequences: Sequence[torch.Tensor],
    max_new_tokens: Sequence[int],
    *,
    eos_token_id: int,
    pad_token_id: int,
    batch_size: int = 32,
) -> list[Generated]:
    """Continue each sequence greedily until its end token, its cap or a loop.

    Args:
        decoder: Causal language model of `transformers`, in evaluation mode.
        sequences: One [N_i, D] a row, of the decoder's type and on its device.
        max_new_tokens: Cap of each row, 1 or more, the end token included.
        eos_token_id: The end token.
        pad_token_id: What a row that has ended is fed while others of its batch go on.
        batch_size: Rows decoded together; rows of similar length share a batch.

    Returns:
        One answer a row, in the order of `sequences`.

    Raises:
        OptionError: A cap or the batch size is below 1, or there is not one cap a row.
    """
    if len(max_new_tokens) != len(sequences):
        raise OptionError(f"{len(sequences)} rows have as many caps", len(max_new_tokens), "give one cap a row")
    if batch_size < 1 or min(max_new_tokens, default=1) < 1:
        raise OptionError(
            "batch size and caps are 1 or more", f"{batch_size} and {list(max_new_tokens)}", "ask for a token at least"
        )
    # Longest first: what does not fit the memory fails at once.
    order = sorted(range(len(sequences)), key=lambda i: (len(sequences[i]), max_new_tokens[i]), reverse=True)
    answers: dict[int, Generated] = {}
    for begin in range(0, len(order), batch_size):
        picked = order[begin : begin + batch_size]
        ends = _RowEnds([max_new_tokens[i] for i in picked], eos_token_id)
        _run(decoder, [sequences[i] for i in picked], ends, pad_token_id)
        answers.update(zip(picked, ends.answers(), strict=True))
    return [answers[i] for i in range(len(sequences))]


def loops(tokens: Sequence[int]) -> bool:
    """Say whether `tokens` end in a loop."""
    for size in range(1, min(LOOP_TOKENS, len(tokens) // LOOP_REPEATS) + 1):
        tail = tokens[-size * LOOP_REPEATS :]
        if tail[size:] == tail[:-size]:  # each token equals the one `size` earlier
            return True
    return False


class _RowEnds(StoppingCriteria):
    """The one rule for where a row ends, asked after every token; remembers each row as it was then."""

    def __init__(self, caps: list[int], eos_token_id: int) -> None:
        self.caps, self.eos_token_id = caps, eos_token_id
        self._answers: list[Generated | None] = [None] * len(caps)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        """Return [B], bool: which rows have ended; `input_ids` [B, tokens] holds new tokens only."""
        for row, tokens in enumerate(input_ids.tolist()):
            if self._answers[row] is not None:
                continue
            if tokens[-1] == self.eos_token_id:
                self._answers[row] = Generated(tokens=tokens[:-1], stopped="eos")
            elif loops(tokens):
                self._answers[row] = Generated(tokens=tokens, stopped="loop")
            elif len(tokens) == self.caps[row]:
                self._answers[row] = Generated(tokens=tokens, stopped="length")
        return torch.tensor([answer is not None for answer in self._answers], device=input_ids.device)

    def answers(self) -> list[Generated]:
        """Return the rows, all of which have ended: the batch goes on until the largest cap."""
        return [answer for answer in self._answers if answer is not None]


def _run(decoder: Any, rows: list[torch.Tensor], ends: _RowEnds, pad_token_id: int) -> None:
    """Decode one batch until all of its rows have ended."""
    inputs, mask = left_pad(rows)  # [B, N, D], [B, N]
    config = GenerationConfig(
        max_new_tokens=max(ends.caps),
        do_sample=False,
        num_beams=1,
        eos_token_id=ends.eos_token_id,
        pad_token_id=pad_token_id,
    )
    # `generate` fills what a given config leaves open (temperature, repetition penalty) from the decoder's own.
    own, decoder.generation_config = decoder.generation_config, GenerationConfig()
    try:
        decoder.generate(
            inputs_embeds=inputs,
            attention_mask=mask,
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([ends]),
        )
    finally:
        decoder.generation_config = own
