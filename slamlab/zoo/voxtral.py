"""Voxtral's processor (arXiv 2507.13264), which takes audio in a conversation, or with a request for a transcript.

Its tokenizer is that of `mistral-common` (`pip install 'slamlab[voxtral]'`), which makes token ids of the whole request
at once: nothing in between is text. Audio goes in as a WAV file in memory, whose samples have 16 bits.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import soundfile


def is_voxtral(processor: Any) -> bool:
    """Say whether a processor is Voxtral's."""
    return type(processor).__name__ == "VoxtralProcessor"


def voxtral_inputs(processor: Any, waveform: np.ndarray, words: str = "", language: str = "") -> dict[str, Any]:
    """Return the wrapper's inputs for one recording.

    Args:
        processor: Voxtral's.
        waveform: float32 [samples] at the processor's rate.
        words: What is asked; nothing asks for a transcript, in the model's own way.
        language: Code of the language of a transcript; where there is none, or one that ISO 639-1 does not have,
            the model finds it out.
    """
    rate = processor.feature_extractor.sampling_rate
    if words:
        file = io.BytesIO()
        soundfile.write(file, waveform, rate, format="wav")
        audio = {"type": "audio", "base64": base64.b64encode(file.getvalue()).decode()}
        content = [audio, {"type": "text", "text": words}]
        return dict(processor.apply_chat_template([{"role": "user", "content": content}]))
    request = {"audio": waveform, "model_id": "voxtral", "sampling_rate": rate, "format": "wav"}
    try:
        return dict(processor.apply_transcription_request(language=language or None, **request))
    except ValueError:
        if not language:
            raise
        return dict(processor.apply_transcription_request(language=None, **request))
