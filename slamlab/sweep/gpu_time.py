"""GPU time of decoders that were never timed, from arithmetic: an estimate, for a plan to be priced before it is run.

The model is a stated GPU at a stated utilisation. Training multiplies and adds once a parameter and token forward (2
FLOPs), as much again for the gradients of the activations, and as much again for those of the weights, which a frozen
decoder has none of: 6 FLOPs where the decoder learns, 4 where it is frozen, as in every base and heal of a pretrained
one here. Decoding reads every weight once a step, for all answers of a batch together, so that memory is what it waits
for. Left out: the encoder, which sees each recording once; loading; layers that are removed.
"""

from __future__ import annotations

from slamlab.sweep.cells import Cell
from slamlab.sweep.settings import Settings
from slamlab.zoo.decoders import find_decoder

GPU = "H100 SXM 80 GB"
FLOPS_A_S = 989e12
"""Of dense bf16 products, by NVIDIA's data sheet."""
BYTES_A_S = 3.35e12
"""Of its memory, by the same."""
UTILISATION = 0.3
"""Share of either that is reached: an assumption, cautious for training a frozen decoder in small batches."""
FLOPS_A_WEIGHT = 4
BYTES_A_WEIGHT = 2
SPEECH_S = 12.0
"""Length of a recording: the mean of LibriSpeech's 960 h over its 281,241 utterances."""
SOURCE_TOKENS_A_S = 10.0
"""50 frames a second of the encoders, stacked by five."""
ANSWER_TOKENS = 48
"""About 35 words of an utterance of that length, at 1.3 tokens each."""
PROMPT_TOKENS = 20
LONGEST_ANSWERS = 2.0
"""Steps that a batch takes over those of a mean answer: it waits for its longest."""


def gpu_seconds(settings: Settings, cell: Cell) -> dict[str, float]:
    """Return the GPU-seconds of a cell's trials by kind, and of a probe's heal alone.

    Args:
        settings: Gives steps, batches, and the numbers of utterances that are scored.
        cell: Of a decoder whose size is known.
    """
    heal = settings.heal_recipe(cell).train
    selection_s, test_s = (_decoding_s(settings, cell, num) for num in (settings.num_selection, settings.num_test))
    heal_s = _training_s(cell, heal.num_steps * heal.batch_size)
    return {"base": selection_s + test_s, "probe": heal_s + selection_s, "final": test_s, "heal": heal_s}


def base_gpu_s(settings: Settings, cell: Cell) -> float:
    """Return the GPU-seconds of training a cell's base on speech."""
    speech = settings.recipes().base_recipe(cell.scale).speech
    return _training_s(cell, speech.num_steps * speech.batch_size)


def _num_weights(cell: Cell) -> float:
    return find_decoder(cell.family, cell.scale).num_params_billion * 1e9


def _training_s(cell: Cell, num_utterances: int) -> float:
    tokens = num_utterances * (SPEECH_S * SOURCE_TOKENS_A_S + PROMPT_TOKENS + ANSWER_TOKENS)
    return FLOPS_A_WEIGHT * _num_weights(cell) * tokens / (FLOPS_A_S * UTILISATION)


def _decoding_s(settings: Settings, cell: Cell, num_utterances: int) -> float:
    read_tokens = num_utterances * (SPEECH_S * SOURCE_TOKENS_A_S + PROMPT_TOKENS)
    read_s = 2 * _num_weights(cell) * read_tokens / (FLOPS_A_S * UTILISATION)
    num_steps = num_utterances / settings.recipes().eval_batch_size * ANSWER_TOKENS * LONGEST_ANSWERS
    return read_s + num_steps * BYTES_A_WEIGHT * _num_weights(cell) / (BYTES_A_S * UTILISATION)
