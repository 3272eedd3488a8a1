"""Languages: code, English name (as prompts say it), espeak-ng voices. One row a language."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Language:
    """A language SLAMLab knows by name."""

    code: str
    name: str
    espeak_voice: str = ""


LANGUAGES = {
    language.code: language
    for language in (
        Language(code="en", name="English", espeak_voice="en-us"),
        Language(code="de", name="German", espeak_voice="de"),
        Language(code="fr", name="French", espeak_voice="fr"),
        Language(code="es", name="Spanish", espeak_voice="es"),
        Language(code="it", name="Italian", espeak_voice="it"),
        Language(code="ru", name="Russian", espeak_voice="ru"),
    )
}
