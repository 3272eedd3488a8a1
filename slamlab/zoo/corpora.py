"""Corpora: how each is opened, by name or by the path of a manifest. One row a corpus."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from slamlab.errors import OptionError
from slamlab.zoo.languages import LANGUAGES

if TYPE_CHECKING:
    from slamlab.data.utterance import Corpus


@dataclass(frozen=True, kw_only=True)
class HubSpec:
    """A public corpus that lies on the Hugging Face hub as Parquet; what needs a script of its own is not taken.

    Attributes:
        name: As a user types it.
        hub_id: "owner/name" of the data set.
        revision: Commit, or the branch that a store resolves to a commit when it first opens the corpus.
        configs: Language code to the data set's name of that language or subset.
        files: Patterns of the files of each split, with {config} for the config; a `*` also stands for folders.
        audio: Column of the recordings: a struct of bytes and path.
        text: Column of the transcripts.
        id: Column of the ids, or of paths that end in one.
        speaker: Column of the speakers; empty where there is none.
        translation: Column of the translations into English; empty where there is none.
        is_upper_case: Whether transcripts are in capitals throughout: these are lowered, as no text that a decoder was
            trained on looks like that.
        licence: As the data set's card or its authors have it.
        hours: Of speech, over all languages, as its authors tell; None where that was not found.
    """

    name: str
    hub_id: str
    revision: str
    configs: Mapping[str, str]
    files: Mapping[str, tuple[str, ...]]
    audio: str = "audio"
    text: str
    id: str = "id"
    speaker: str = ""
    translation: str = ""
    is_upper_case: bool = False
    licence: str
    hours: int | None

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        named = (self.id, self.audio, self.text, self.speaker, self.translation)
        return list(dict.fromkeys(column for column in named if column))

    def has(self, task: str, language: str) -> bool:
        """Say whether `task` (`asr`, or `st` into English) can be learned for speech in `language`."""
        is_st = task == "st" and bool(self.translation) and language != "en"
        return language in self.configs and (task == "asr" or is_st)


def _by_code(configs: str, others: Mapping[str, str]) -> dict[str, str]:
    """Return language code to config: what comes before _ or - of a config is the code, or one of `others`."""
    coded = {config.replace("-", "_").partition("_")[0]: config for config in configs.split()}
    return {others.get(code, code): config for code, config in coded.items() if others.get(code, code) in LANGUAGES}


# Names, configs, splits, columns and files were read in the data sets' cards and file lists at the hub, most of them as
# they were in 2024 and 2025; the hub could not be reached from where this was written, so no row was opened there.
_LIBRISPEECH = HubSpec(
    name="librispeech",
    hub_id="openslr/librispeech_asr",
    # The main branch went to Parquet and back to a script: this is the commit between. Whether the main branch has
    # Parquet today was not verified.
    revision="e8230f9c921a09e8361a47fdba9fc50acfa7fa0a",
    configs={"en": "all"},
    files={
        "train": ("{config}/train.clean.100-*", "{config}/train.clean.360-*", "{config}/train.other.500-*"),
        "selection": ("{config}/validation.clean-*", "{config}/validation.other-*"),
        "test": ("{config}/test.clean-*",),
    },
    text="text",
    speaker="speaker_id",
    is_upper_case=True,
    licence="CC BY 4.0",
    hours=960,
)
_SHARDS = {"train": ("{config}/train-*",), "selection": ("{config}/validation-*",), "test": ("{config}/test-*",)}
_FOLDERS = {"train": ("{config}/train/*",), "selection": ("{config}/validation/*",), "test": ("{config}/test/*",)}
HUB = {
    spec.name: spec
    for spec in (
        _LIBRISPEECH,
        replace(
            _LIBRISPEECH, name="librispeech-other", files={**_LIBRISPEECH.files, "test": ("{config}/test.other-*",)}
        ),
        HubSpec(
            name="loquacious",
            hub_id="speechbrain/LoquaciousSet",
            revision="0fca934b6912e99d12fb4a138f5c3f0e2da7b094",
            configs={"en": "large"},  # beside it: clean (13,000 h), medium (2,500 h), small (250 h)
            files={"train": ("{config}/train*",), "selection": ("dev/dev*",), "test": ("test/test*",)},
            audio="wav",
            text="text",
            id="ID",
            speaker="spk_id",
            licence="CC BY 3.0 and 4.0",
            hours=25_000,
        ),
        HubSpec(
            name="covost2",
            hub_id="fixie-ai/covost2",  # facebook/covost2 is a script, and has no audio
            revision="main",
            configs=_by_code(
                "ar_en ca_en cy_en de_en es_en et_en fa_en fr_en id_en it_en ja_en lv_en mn_en nl_en pt_en ru_en sl_en "
                "sv-SE_en ta_en tr_en zh-CN_en",
                {},
            ),
            files=_SHARDS,
            text="sentence",
            speaker="client_id",
            translation="translation",
            licence="CC BY-NC 4.0",  # of the first data set's card; the paper (arXiv 2007.10310) says CC0
            hours=2900,  # with those from English, which are not in this row
        ),
        HubSpec(
            name="fleurs",
            hub_id="google/fleurs",
            revision="refs/convert/parquet",  # the hub's own conversion; the main branch is a script
            configs=_by_code(
                "af_za am_et ar_eg as_in az_az be_by bg_bg bn_in bs_ba ca_es cmn_hans_cn cs_cz cy_gb da_dk de_de el_gr "
                "en_us es_419 et_ee fa_ir fi_fi fil_ph fr_fr gl_es gu_in ha_ng he_il hi_in hr_hr hu_hu hy_am id_id "
                "is_is it_it ja_jp jv_id ka_ge kk_kz km_kh kn_in ko_kr lb_lu ln_cd lo_la lt_lt lv_lv mi_nz mk_mk ml_in "
                "mn_mn mr_in ms_my mt_mt my_mm nb_no ne_np nl_nl oc_fr pa_in pl_pl ps_af pt_br ro_ro ru_ru sd_in sk_sk "
                "sl_si sn_zw so_so sr_rs sv_se sw_ke ta_in te_in tg_tj th_th tr_tr uk_ua ur_pk uz_uz vi_vn yo_ng "
                "yue_hant_hk",
                {"cmn": "zh", "fil": "tl", "jv": "jw", "nb": "no"},
            ),
            files=_FOLDERS,
            text="transcription",
            id="path",  # its column `id` names a sentence, which several people read
            licence="CC BY 4.0",
            hours=None,
        ),
        HubSpec(
            name="mls",
            hub_id="facebook/multilingual_librispeech",
            revision="2e83e61823b4c47dcbcb1980bb88601274127609",
            configs={
                "de": "german",
                "es": "spanish",
                "fr": "french",
                "it": "italian",
                "nl": "dutch",
                "pl": "polish",
                "pt": "portuguese",
            },
            files={**_SHARDS, "selection": ("{config}/dev-*",)},
            text="transcript",
            speaker="speaker_id",
            licence="CC BY 4.0",
            hours=6000,
        ),
        HubSpec(
            name="common-voice",
            # Version 17. Mozilla took its own data sets off the hub in October 2025; those were gated and scripts. That
            # this copy stays, and stays open, was not verified.
            hub_id="fixie-ai/common_voice_17_0",
            revision="main",
            configs=_by_code(
                "ar be bg bn br cs cy da de el en es et fa fi fr gl ha hi hu it ja ka ko lt lv mk ml mn mr nl oc pl pt "
                "ro ru sk sl sr sv-SE sw ta te th tr uk ur vi",
                {},
            ),
            files={split: _SHARDS[split] + _FOLDERS[split] for split in _SHARDS},  # languages that came later: folders
            text="sentence",
            id="path",
            speaker="client_id",
            licence="CC0 1.0",
            hours=None,
        ),
    )
}
"""Corpora on the hub. None was gated when it was looked at; where one is, the hub's refusal says how to log in."""


def _pocket(store: Path, seed: int) -> Corpus:
    from slamlab.data.pocket import PocketCorpus

    return PocketCorpus(store / "pocket", seed)


def _asterisk(store: Path, seed: int) -> Corpus:
    from slamlab.data.asterisk import AsteriskCorpus

    return AsteriskCorpus()  # recordings stay where Debian put them, and their split is fixed


def _wordnet(store: Path, seed: int) -> Corpus:
    from slamlab.data.wordnet import WordnetCorpus

    return WordnetCorpus(store / "wordnet", seed)


def _hub(spec: HubSpec, store: Path, seed: int, folder: Path | None = None) -> Corpus:
    from slamlab.data.hub import HubCorpus

    return HubCorpus(spec, store / "hub" / spec.hub_id.replace("/", "--"), seed, folder)


CORPORA: dict[str, Callable[[Path, int], Corpus]] = {
    "pocket": _pocket,
    "asterisk": _asterisk,
    "wordnet": _wordnet,
    **{name: partial(_hub, spec) for name, spec in HUB.items()},
}
MANIFESTS = (".jsonl", ".csv")


def names_in(source: str) -> list[str]:
    """Return the names and manifests that are joined with commas; a file whose name has commas is one."""
    return [source] if Path(source).is_file() else [one.strip() for one in source.split(",")]


def absolute_source(source: str) -> str:
    """Return names, and paths made absolute: a worker elsewhere would take a relative one for another file."""
    made = []
    for one in names_in(source):
        name, equals, folder = one.partition("=")
        if equals and name in HUB:
            made.append(f"{name}={Path(folder).absolute()}")
        else:
            made.append(str(Path(one).absolute()) if Path(one).exists() else one)
    return ",".join(made)


def open_corpus(name_or_path: str, store: Path, seed: int) -> Corpus:
    """Open a corpus of `CORPORA`, or the recordings listed in a manifest; or several as one.

    Args:
        name_or_path: A name, or the path of a `.jsonl` or `.csv` manifest (:mod:`slamlab.data.recordings`), or
            NAME=FOLDER for a copy of a corpus of `HUB` that is laid out as on the hub; with commas between several.
        store: Folder for audio that is made here.
        seed: Seed of sentences, voices, splits and order, where the corpus leaves a choice.

    Raises:
        OptionError: If it is neither.
        DataError: If the corpus cannot be used.
    """
    names = names_in(name_or_path)
    if len(names) > 1:
        from slamlab.data.joined import JoinedCorpus

        if len(set(names)) < len(names):
            raise OptionError("joined corpora differ", f"one twice in {name_or_path}", "name each once")
        return JoinedCorpus([open_corpus(one, store, seed) for one in names])
    name, equals, folder = name_or_path.partition("=")
    if equals and name in HUB:
        return _hub(HUB[name], Path(store), seed, Path(folder))
    if name_or_path in CORPORA:
        return CORPORA[name_or_path](Path(store), seed)
    if Path(name_or_path).suffix.lower() in MANIFESTS:
        from slamlab.data.recordings import ManifestCorpus

        return ManifestCorpus(Path(name_or_path), seed)
    rule = f"a corpus is {', '.join(CORPORA)}, a copy of one of the last {len(HUB)} as NAME=FOLDER, or a manifest "
    rule += f"({', '.join(MANIFESTS)})"
    raise OptionError(rule, repr(name_or_path), "choose one of them")


def unopened(source: str) -> Corpus | None:
    """Return a corpus of `HUB` as its row alone tells it, for a plan; None where `source` is not just its name."""
    if source not in HUB:
        return None
    from slamlab.data.hub import UnopenedCorpus

    return UnopenedCorpus(HUB[source])
