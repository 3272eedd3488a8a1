"""Answers to many sequences of decoder inputs at once, the same as one by one: greedy, or by beam search.

Rows are padded on the left under an attention mask, so in float32 a row's tokens do not depend on its neighbours (in
bfloat16 near-ties may fall either way). What a checkpoint's generation config asks for (sampling, penalties) is set
aside: a score is of the likeliest answer.

An unhealed or badly healed model may repeat itself for ever; a row ends when it does.

Beam search is that of `transformers`: hypotheses that end are ranked by their mean log-probability a token, and a row
is done once `num_beams` have ended that no open one beats, at its length so far. (`early_stopping="never"` would reckon
with the largest cap of the batch, and make a row's answer depend on its neighbours.)

Shapes: B batch, N positions, D decoder width, T new tokens, H hypotheses (B if greedy, else B x 2 x num_beams).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from slamlab.errors import OptionError
from slamlab.model.slam import left_pad

Stopped = Literal["eos", "length", "loop"]

LOOP_REPEATS, LOOP_TOKENS, LOOP_SPAN = 5, 16, 12
"""A row loops when it ends in LOOP_REPEATS or more copies of the same 1 ... LOOP_TOKENS tokens, over LOOP_SPAN or more.

People do say "nine nine nine nine", in one token a word or, outside English, in three or four; five copies of three
tokens, six of two or twelve of one they hardly say. LOOP_TOKENS is a short sentence, which broken models like to
repeat: that is let go on for 80 tokens.
"""
_LOOP_SPANS = {size: max(LOOP_REPEATS, -(-LOOP_SPAN // size)) * size for size in range(1, LOOP_TOKENS + 1)}


@dataclass(frozen=True, kw_only=True)
class Generated:
    """An answer.

    Attributes:
        tokens: Without the end token; of a loop, what there is up to the last repetition.
        stopped: Why it ended: the end token, the row's cap, or a loop.
    """

    tokens: list[int]
    stopped: Stopped


def generate(
    decoder: Any,
    sequences: Sequence[torch.Tensor],
    max_new_tokens: Sequence[int],
    *,
    eos_token_id: int,
    pad_token_id: int,
    batch_size: int = 32,
    num_beams: int = 1,
) -> list[Generated]:
    """Continue each sequence until its end token, its cap or a loop.

    Args:
        decoder: Causal language model of `transformers`, in evaluation mode.
        sequences: One [N_i, D] a row, of the decoder's type and on its device.
        max_new_tokens: Cap of each row, 1 or more, the end token included.
        eos_token_id: The end token.
        pad_token_id: What a row that has ended is fed while others of its batch go on.
        batch_size: Rows decoded together; rows of similar length share a batch.
        num_beams: Hypotheses kept a row, each of which takes a row's memory; 1 is greedy.

    Returns:
        One answer a row, in the order of `sequences`.

    Raises:
        OptionError: A cap, the batch size or the number of beams is below 1, or there is not one cap a row.
    """
    if len(max_new_tokens) != len(sequences):
        raise OptionError(f"{len(sequences)} rows have as many caps", len(max_new_tokens), "give one cap a row")
    if batch_size < 1 or min(max_new_tokens, default=1) < 1:
        raise OptionError(
            "batch size and caps are 1 or more", f"{batch_size} and {list(max_new_tokens)}", "ask for a token at least"
        )
    if num_beams < 1:
        raise OptionError("the number of beams is 1 or more", num_beams, "take 1 for greedy answers")
    # Longest first: what does not fit the memory fails at once.
    order = sorted(range(len(sequences)), key=lambda i: (len(sequences[i]), max_new_tokens[i]), reverse=True)
    answers: dict[int, Generated] = {}
    for begin in range(0, len(order), batch_size):
        picked = order[begin : begin + batch_size]
        ends = _RowEnds([max_new_tokens[i] for i in picked], eos_token_id)
        rows = [sequences[i] for i in picked]
        tokens = _run(decoder, rows, max(ends.caps), ends, pad_token_id, num_beams)
        answers.update(zip(picked, ends.cut(tokens), strict=True))
    return [answers[i] for i in range(len(sequences))]


def generate_exactly(decoder: Any, sequences: Sequence[torch.Tensor], num_tokens: int) -> torch.Tensor:
    """Continue each sequence greedily by the same number of tokens, whatever they say: equal work for any model.

    Args:
        decoder: Causal language model of `transformers`, in evaluation mode.
        sequences: One [N_i, D] a row, of the decoder's type and on its device; all are decoded together.
        num_tokens: Tokens of every row, 1 or more; an end token among them ends nothing.

    Returns:
        Tokens [B, num_tokens].
    """
    return _run(decoder, sequences, num_tokens)


def loops(tokens: Sequence[int]) -> bool:
    """Say whether `tokens` end in a loop."""
    for size, span in _LOOP_SPANS.items():
        if len(tokens) >= span and tokens[-1] == tokens[-1 - size]:  # mostly not, and slices take time
            tail = tokens[-span:]
            if tail[size:] == tail[:-size]:  # each token equals the one `size` earlier
                return True
    return False


class _RowEnds(StoppingCriteria):
    """The one rule for where a row ends: by it hypotheses stop while decoding, and by it what is returned is cut.

    It is a function of the tokens alone, for a beam search asks about hypotheses in no order that lasts.
    """

    def __init__(self, caps: list[int], eos_token_id: int) -> None:
        self.caps, self.eos_token_id = caps, eos_token_id

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return [H], bool: which hypotheses end here; `input_ids` [H, T], those of one row side by side."""
        share = len(input_ids) // len(self.caps)
        ended = [self._end(tokens, self.caps[i // share]) is not None for i, tokens in enumerate(input_ids.tolist())]
        return torch.tensor(ended, device=input_ids.device)

    def cut(self, tokens: torch.Tensor) -> list[Generated]:
        """Return the answers that lie in `tokens` [B, T], each up to where it first ended."""
        return [self._cut(row, cap) for row, cap in zip(tokens.tolist(), self.caps, strict=True)]

    def _cut(self, tokens: list[int], cap: int) -> Generated:
        for length in range(1, cap + 1):
            stopped = self._end(tokens[:length], cap)
            if stopped is not None:
                break
        return Generated(tokens=tokens[: length - (stopped == "eos")], stopped=stopped or "length")

    def _end(self, tokens: list[int], cap: int) -> Stopped | None:
        if tokens[-1] == self.eos_token_id:
            return "eos"
        if loops(tokens):
            return "loop"
        return "length" if len(tokens) >= cap else None


def _run(
    decoder: Any,
    rows: Sequence[torch.Tensor],
    num_tokens: int,
    ends: _RowEnds | None = None,
    pad_token_id: int | None = None,
    num_beams: int = 1,
) -> torch.Tensor:
    """Return [B, T]: `num_tokens` new tokens of each row of a batch; where rows end, until all have, padded after."""
    inputs, mask = left_pad(rows)  # [B, N, D], [B, N]
    config = GenerationConfig(
        max_new_tokens=num_tokens,
        do_sample=False,
        num_beams=num_beams,
        length_penalty=1.0,
        early_stopping=False,
        eos_token_id=ends.eos_token_id if ends else None,
        pad_token_id=pad_token_id,
    )
    # `generate` fills what a given config leaves open (temperature, repetition penalty) from the decoder's own.
    own, decoder.generation_config = decoder.generation_config, GenerationConfig()
    try:
        return decoder.generate(
            inputs_embeds=inputs,
            attention_mask=mask,
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([ends] if ends else []),
        )
    finally:
        decoder.generation_config = own
