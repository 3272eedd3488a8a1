"""How little a block of layers turns the residual stream: all angular distances of a decoder in one forward pass.

Follows Gromov et al. (arXiv 2403.17887, eq. 7): d(l, l + n) = arccos(cos(x_l, x_{l+n})) / pi, with x_l the residual
stream entering layer l. Deviation: the mean is over all positions a caller selects, not the last of a sequence, as in
"Measuring the Redundancy of Decoder Layers in SpeechLLMs" (arXiv 2603.05121).

The stream is read at the layers themselves: `output_hidden_states` gives its last entry after the final norm, which
mismeasures every block that ends at the last layer. Memory does not grow with the number of batches.

How much a mean would differ on other utterances is told by a Poisson bootstrap (Chamandy et al. 2012, "Estimating
uncertainty for massive data streams"): each resample counts an utterance Poisson(1) times, which needs no second look
at it. The counts depend on seed and running number alone, so maps of one corpus share them, and their differences too
have an interval.

Shapes: B batch, T positions, D decoder width, L layers, P selected positions, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import nn

from slamlab.data.batching import Example, Prompt
from slamlab.errors import ModelError
from slamlab.model.slam import SlamModel, left_pad
from slamlab.model.surgery import decoder_layers, layer_input

CHUNK_POSITIONS = 256
"""Positions compared at a time: bounds the float32 copy of their streams (256 x 29 x 3584 values: 106 MB)."""
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class DistanceMap:
    """Mean angular distances of every block, over one selection of positions.

    Attributes:
        distance: [L + 1, L + 1], float64 in 0 ... 1: symmetric, zero on the diagonal. Entry [l, l + n] is the distance
            across the block of n layers that starts at layer l; L is what leaves the last layer.
        resampled: The same of every bootstrap resample of utterances [R, L + 1, L + 1], float32; NaN throughout in one
            that drew no position, so that resample r is of the same utterances in every map of them.
        num_positions: Positions averaged over.
        num_utterances: Rows that had a position.
    """

    distance: np.ndarray
    resampled: np.ndarray
    num_positions: int
    num_utterances: int


class AngularDistance:
    """A meter that listens to a decoder: call the model inside its `with`, then :meth:`update`, batch after batch.

    Args:
        model: Any model that :func:`slamlab.model.surgery.decoder_layers` accepts.
        selections: Names of the selections of positions that are averaged over, each by itself.
        num_resamples: R, of the bootstrap over utterances; 0 for none.
        seed: Of the bootstrap.
    """

    def __init__(
        self, model: nn.Module, selections: Sequence[str] = (ALL,), *, num_resamples: int = 0, seed: int = 0
    ) -> None:
        self._layers = decoder_layers(model)
        size = len(self._layers) + 1
        self._stream: list[torch.Tensor | None] = [None] * size  # [B, T, D] each, of the last forward pass
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._draws = np.random.default_rng(seed)
        # The first row counts every utterance once, the others as the bootstrap does.
        self._sums = {name: torch.zeros(1 + num_resamples, size, size, dtype=torch.float64) for name in selections}
        self._counts = {name: torch.zeros(1 + num_resamples, dtype=torch.float64) for name in selections}
        self._num_utterances = dict.fromkeys(selections, 0)

    def __enter__(self) -> AngularDistance:
        def before(index: int) -> Any:
            def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                self._stream[index] = layer_input(args, kwargs).detach()

            return hook

        def after(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._stream[-1] = (output[0] if isinstance(output, tuple) else output).detach()

        for index, layer in enumerate(self._layers):
            self._handles.append(layer.register_forward_pre_hook(before(index), with_kwargs=True))
        self._handles.append(self._layers[-1].register_forward_hook(after))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._clear()

    def update(self, masks: torch.Tensor | Mapping[str, torch.Tensor]) -> None:
        """Count the selected positions of the forward pass just made, once; each row is an utterance.

        Args:
            masks: [B, T], bool, by selection, or one for the only selection: True where a position counts; never
                padding.

        Raises:
            ModelError: No forward pass since the last update, or a mask that is not its [B, T].
        """
        stream = [states for states in self._stream if states is not None]
        if len(stream) < len(self._stream):
            raise ModelError("every update follows a forward pass of its own", "none", "call the model first")
        if isinstance(masks, torch.Tensor):
            masks = {next(iter(self._sums)): masks}
        if masks.keys() != self._sums.keys():
            raise ModelError(f"an update selects {', '.join(self._sums)}", ", ".join(masks), "give a mask for each")
        for mask in masks.values():
            if mask.dtype != torch.bool or mask.shape != stream[0].shape[:2]:
                raise ModelError(
                    f"a mask is bool of shape {tuple(stream[0].shape[:2])}",
                    f"{mask.dtype} of shape {tuple(mask.shape)}",
                    "give one truth value a position",
                )
        stacked = torch.stack(list(masks.values())).to(stream[0].device)  # [S, B, T]
        num_rows, size = stacked.shape[1], len(stream)
        row_sums = torch.zeros(len(masks), num_rows, size, size, dtype=torch.float64)  # [S, B, L + 1, L + 1]
        for where in stacked.any(0).nonzero().split(CHUNK_POSITIONS):  # [P, 2]
            rows, times = where.unbind(1)
            states = torch.stack([states[rows, times].float() for states in stream], dim=1)  # [P, L + 1, D]
            states = nn.functional.normalize(states, dim=-1)
            distances = (states @ states.mT).clamp_(-1.0, 1.0).acos_().double().cpu()  # [P, L + 1, L + 1]
            for sums, counted in zip(row_sums, stacked[:, rows, times].cpu(), strict=True):
                sums.index_add_(0, rows.cpu()[counted], distances[counted])
        self._add(list(masks), row_sums / math.pi, stacked.sum(2).cpu())
        self._clear()

    def _add(self, names: list[str], row_sums: torch.Tensor, row_counts: torch.Tensor) -> None:
        """Add the sums of rows [S, B, L + 1, L + 1] over their positions [S, B], and draw how often each row counts."""
        num_resamples = len(self._sums[names[0]]) - 1
        draws = torch.from_numpy(self._draws.poisson(1.0, size=(row_counts.shape[1], num_resamples)).T.astype(float))
        weights = torch.cat([torch.ones(1, row_counts.shape[1], dtype=torch.float64), draws])  # [1 + R, B]
        for name, sums, counts in zip(names, row_sums, row_counts, strict=True):
            self._sums[name] += torch.einsum("rb,bij->rij", weights, sums)
            self._counts[name] += weights @ counts.double()
            self._num_utterances[name] += int((counts > 0).sum())

    @property
    def num_positions(self) -> int:
        """Positions counted, of the first selection."""
        return int(next(iter(self._counts.values()))[0])

    def matrix(self) -> np.ndarray:
        """Return the mean distances over the first selection, as :class:`DistanceMap` has them.

        Raises:
            ModelError: Nothing was counted, or the residual stream was not finite somewhere.
        """
        return self.map(next(iter(self._sums))).distance

    def map(self, selection: str) -> DistanceMap:
        """Return the map of a selection.

        Raises:
            ModelError: Nothing was counted, or the residual stream was not finite somewhere.
        """
        counts, sums = self._counts[selection], self._sums[selection]
        if not counts[0]:
            raise ModelError("a distance is a mean over positions", "none", "select positions that are not padding")
        mean = (sums / counts[:, None, None].clamp(min=1)).numpy()  # [1 + R, L + 1, L + 1]
        if not np.isfinite(mean).all():
            raise ModelError("the residual stream is finite", "NaN or infinity", "use bfloat16 or float32 weights")
        mean = (mean + mean.transpose(0, 2, 1)) / 2
        mean[:, range(len(mean[0])), range(len(mean[0]))] = 0.0  # rounding aside, a vector has no angle to itself
        return DistanceMap(
            distance=mean[0],
            resampled=np.where(counts[1:, None, None].numpy() > 0, mean[1:], np.nan).astype(np.float32),
            num_positions=int(counts[0]),
            num_utterances=self._num_utterances[selection],
        )

    def _clear(self) -> None:
        self._stream = [None] * len(self._stream)


def feed_text(model: SlamModel, texts: Sequence[str]) -> torch.Tensor:
    """Run a SLAM model's decoder on texts alone and return the positions that are theirs [B, T], bool."""
    embed = model.decoder.get_input_embeddings()
    ids = [torch.as_tensor(model.tokenizer.encode(text), device=model.device) for text in texts]
    inputs, mask = left_pad([embed(row) for row in ids])
    model.answer_logits(inputs, mask, 1)
    return mask.bool()


def feed_speech(model: SlamModel, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Run a SLAM model on sequences of audio, prompt and answer; return positions as :func:`select_positions` does."""
    inputs, mask, _ = model.sequences(examples)
    model.answer_logits(inputs, mask, 1)
    return select_positions(mask, [one.prompt for one in examples], [len(one.answer) for one in examples])


def select_positions(
    mask: torch.Tensor, prompts: Sequence[Prompt], answer_lengths: Sequence[int]
) -> dict[str, torch.Tensor]:
    """Return which positions of left-padded sequences (prompt around audio, answer) belong to what.

    Args:
        mask: [B, T], true where a row has a position of its own.
        prompts: Each row's prompt.
        answer_lengths: Positions of each row's answer, with its end token.

    Returns:
        `all`, `audio`, `prompt`, `answer`, and `last` (the end token of the answer), [B, T] bool each.
    """
    own = mask.bool()
    answers = torch.as_tensor(answer_lengths, device=mask.device)[:, None]
    before = torch.as_tensor([len(one.before) for one in prompts], device=mask.device)[:, None]
    after = torch.as_tensor([len(one.after) for one in prompts], device=mask.device)[:, None]
    left = mask.shape[1] - torch.arange(mask.shape[1], device=mask.device)[None]  # positions to the end, this one too
    answer = left <= answers
    prompt = (own.cumsum(1) <= before) | (~answer & (left <= answers + after))
    return {
        ALL: own,
        "audio": own & ~answer & ~prompt,
        "prompt": own & prompt,
        "answer": answer & own,
        "last": own & (left == 1),
    }
