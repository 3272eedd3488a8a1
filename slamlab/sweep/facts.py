"""What can change a trial, told as plain data: a trial's fingerprint is taken of this, and of nothing else.

Were something that changes a trial not told here, two different trials would look equal, and the second be read from
the store in place of being run: it goes in here, or raises `TRIAL_REVISION`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from slamlab.data.features import FeatureStore
from slamlab.data.utterance import Corpus, Utterance
from slamlab.scoring.normalise import normaliser
from slamlab.sweep.bases import Base, base_name
from slamlab.sweep.cells import Cell
from slamlab.sweep.device import device
from slamlab.sweep.evaluate import LOOK_EVERY, NUM_LOOKS, decode_facts
from slamlab.sweep.settings import TRIAL_REVISION, Request, Settings
from slamlab.sweep.store import Store
from slamlab.zoo.corpora import open_corpus
from slamlab.zoo.profiles import RUNGS, HealRecipe, as_json


class TrialFacts:
    """The data and recipes of a sweep's trials, and the facts of each.

    Args:
        settings: The sweep.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.profile = settings.recipes()
        self.store = Store(settings.store)
        self.corpus: Corpus = open_corpus(settings.corpus, self.store.cache, seed=0)
        self._features: dict[str, FeatureStore] = {}

    def features(self, encoder: str) -> FeatureStore:
        """Return the frames of an encoder."""
        if encoder not in self._features:
            store, folders = self.store, (self.store.cache / "features", self.store.cache / "models")
            self._features[encoder] = FeatureStore(encoder, *folders, device=device(), patiently=store.patiently)
        return self._features[encoder]

    def _members(self, request: Request) -> list[Cell]:
        """Return the cells that a request's model answers for: its own, or all with the same base."""
        if not request.is_joint:
            return [request.cell]
        return [cell for cell in self.settings.cells if base_name(cell) == base_name(request.cell)]

    def _recipe(self, request: Request) -> HealRecipe | None:
        """Return how a request's model is healed, None where it is not.

        A joint heal takes the steps of its members' heals together, so that each cell's speech is seen as often as in
        a heal of its own: what a joint model then lacks is not for want of training.
        """
        members = self._members(request)
        recipe = RUNGS[request.rung].heal_recipe(self.settings.heal_recipe(members[0]))
        if recipe is None:
            return None
        return replace(recipe, train=replace(recipe.train, num_steps=recipe.train.num_steps * len(members)))

    def _scored(self, cell: Cell, split: str, rung: str = "full") -> list[Utterance]:
        """Return the utterances that a cell is scored on; the rung limits those of the selection split."""
        if split != "selection":
            return self.corpus.utterances(cell.language, split, self.settings.num_test)
        utterances = self.corpus.utterances(cell.language, split, self.settings.num_selection)
        return utterances[: RUNGS[rung].num_scored(len(utterances))]

    def _facts(self, cell: Cell, base: Base, rung: str = "full") -> dict[str, Any]:
        """Return what can change the score of any model of a cell."""
        return {
            "revision": TRIAL_REVISION,
            "task": cell.task,
            "language": cell.language,
            "normaliser": normaliser(cell.text_language, cell.task).signature,
            "base": base.fingerprint,
            "encoder": self.features(cell.encoder).fingerprint,
            "corpus": self.corpus.fingerprint,
            "num_selection": len(self._scored(cell, "selection", rung)),
            "decode": decode_facts(self.profile, self.settings.num_beams),
            "resample": self.settings.resample,
        }

    def _model_facts(self, request: Request, base: Base) -> dict[str, Any]:
        """Return what can change the weights of a request's pruned model."""
        facts: dict[str, Any] = {"base": base.fingerprint, "block": {"start": request.start, "depth": request.depth}}
        recipe = self._recipe(request)
        if recipe is None:
            return facts  # and nothing is drawn
        return {
            **facts,
            "jobs": [[member.task, member.language] for member in self._members(request)],
            "encoder": self.features(request.cell.encoder).fingerprint,
            "corpus": self.corpus.fingerprint,
            "heal": as_json(recipe),
            "seed": self.settings.seed + request.repeat,
            **self._devices(),
        }

    def _devices(self) -> dict[str, int]:
        """Return on how many devices a heal runs, which changes how it rounds; nothing of one, as it always was."""
        return {"devices": self.settings.devices} if self.settings.devices > 1 else {}

    def _base_facts(self, cell: Cell, base: Base) -> dict[str, Any]:
        return {**self._facts(cell, base), "kind": "base", "num_test": self.settings.num_test}

    def _pruned_facts(self, request: Request, base: Base) -> dict[str, Any]:
        """Return what can change the scores of a request's pruned model on the selection split.

        Rung and repeat are named, not only what they amount to: a record tells them of the request that asked for it.
        """
        facts: dict[str, Any] = {"block": {"start": request.start, "depth": request.depth}, "rung": request.rung}
        recipe = self._recipe(request)
        if recipe is None:
            facts |= {"heal": None}  # and nothing is drawn
        else:
            facts |= {"heal": as_json(recipe), "seed": self.settings.seed, "repeat": request.repeat, **self._devices()}
        if self.settings.early_stop:
            facts |= {"early_stop": [self.settings.early_stop, self.settings.tolerance, NUM_LOOKS, LOOK_EVERY]}
        if request.is_joint:
            members = [self._facts(member, base) for member in self._members(request)]
            return {"kind": "joint", "members": members, **facts}
        return {**self._facts(request.cell, base, request.rung), "kind": "probe", **facts}

    def _final_facts(self, request: Request, base: Base) -> dict[str, Any]:
        """Return what can change the scores of a request's pruned model on the splits that are reported."""
        pruned = self._pruned_facts(request, base)
        return {
            "revision": TRIAL_REVISION,
            "kind": request.kind,
            "pruned": pruned,
            "num_test": self.settings.num_test,
        }
