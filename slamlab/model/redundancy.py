"""How little a block of layers turns the residual stream: all angular distances of a decoder in one forward pass.

Follows Gromov et al. (arXiv 2403.17887, eq. 7): d(l, l + n) = arccos(cos(x_l, x_{l+n})) / pi, with x_l the residual
stream entering layer l. Deviation: the mean is over all positions a caller selects, not the last of a sequence, as in
"Measuring the Redundancy of Decoder Layers in SpeechLLMs" (arXiv 2603.05121).

The stream is read at the layers themselves: `output_hidden_states` gives its last entry after the final norm, which
mismeasures every block that ends at the last layer. Memory does not grow with the number of batches.

Shapes: B batch, T positions, D decoder width, L layers, P selected positions.
"""

from __future__ import annotations

import math
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import nn

from slamlab.errors import ModelError
from slamlab.model.surgery import decoder_layers, layer_input

CHUNK_POSITIONS = 256
"""Positions compared at a time: bounds the float32 copy of their streams (256 x 29 x 3584 values: 106 MB)."""


class AngularDistance:
    """A meter that listens to a decoder: call the model inside its `with`, then :meth:`update`, batch after batch.

    Args:
        model: Any model that :func:`slamlab.model.surgery.decoder_layers` accepts.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = decoder_layers(model)
        size = len(self._layers) + 1
        self._stream: list[torch.Tensor | None] = [None] * size  # [B, T, D] each, of the last forward pass
        self._sum = torch.zeros(size, size, dtype=torch.float64)
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self.num_positions = 0

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

    def update(self, mask: torch.Tensor) -> None:
        """Count the selected positions of the forward pass just made, once.

        Args:
            mask: [B, T], bool: True where a position counts; never padding.

        Raises:
            ModelError: No forward pass since the last update, or a mask that is not its [B, T].
        """
        stream = [states for states in self._stream if states is not None]
        if len(stream) < len(self._stream):
            raise ModelError("every update follows a forward pass of its own", "none", "call the model first")
        if mask.dtype != torch.bool or mask.shape != stream[0].shape[:2]:
            raise ModelError(
                f"a mask is bool of shape {tuple(stream[0].shape[:2])}",
                f"{mask.dtype} of shape {tuple(mask.shape)}",
                "give one truth value a position",
            )
        for where in mask.nonzero().split(CHUNK_POSITIONS):  # [P, 2]
            rows, times = where.unbind(1)
            states = torch.stack([states[rows, times].float() for states in stream], dim=1)  # [P, L + 1, D]
            states = nn.functional.normalize(states, dim=-1)
            cosines = (states @ states.mT).clamp(-1.0, 1.0)  # [P, L + 1, L + 1]
            self._sum += (cosines.acos() / math.pi).sum(dim=0, dtype=torch.float64).cpu()
            self.num_positions += len(where)
        self._clear()

    def matrix(self) -> np.ndarray:
        """Return the mean distances [L + 1, L + 1], float64 in 0 ... 1: symmetric, zero on the diagonal.

        Entry [l, l + n] is the distance across the block of n layers that starts at layer l; L is what leaves the
        last layer.

        Raises:
            ModelError: Nothing was counted, or the residual stream was not finite somewhere.
        """
        if not self.num_positions:
            raise ModelError("a distance is a mean over positions", "none", "select positions that are not padding")
        mean = self._sum.numpy() / self.num_positions
        if not np.isfinite(mean).all():
            raise ModelError("the residual stream is finite", "NaN or infinity", "use bfloat16 or float32 weights")
        mean = (mean + mean.T) / 2
        np.fill_diagonal(mean, 0.0)  # rounding aside, a vector has no angle to itself
        return mean

    def _clear(self) -> None:
        self._stream = [None] * len(self._stream)
