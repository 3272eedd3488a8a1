"""The healed model of a request: made once, kept in the store, and gone on with where its making was cut off.

While a heal runs, its state lies beside the losses of finished ones (`heals/`), one file a model: a trial that was
killed, in whatever sweep, goes on from there. A heal for which the device has too little memory is tried once more
with micro-batches of half the size, from the last state; the batch, and so the gradient, stays the same.

Where a heal takes several devices, a team of ranks does it, each in a process of its own and each as one process would,
and the first one leaves the model in the store. When a rank is lost, the others are given up, and a new team goes on.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

import torch
import torch.distributed

from slamlab.data.utterance import Utterance
from slamlab.errors import AssetError, TrialFailed
from slamlab.model import surgery
from slamlab.model.slam import SlamModel, load
from slamlab.model.surgery import LayerBlock
from slamlab.sweep.bases import Base
from slamlab.sweep.device import Clock, device
from slamlab.sweep.facts import TrialFacts
from slamlab.sweep.settings import Request, Settings
from slamlab.sweep.store import fingerprint
from slamlab.training.base import Progress, compute_features, speech_stream
from slamlab.training.heal import heal
from slamlab.training.loop import OutOfMemory
from slamlab.training.resume import Keeper
from slamlab.zoo.profiles import HealRecipe


class RankLost(TrialFailed):
    """A process of several that heal together died."""


class Team(Protocol):
    """Processes that heal together."""

    def heal(self, request: Request, recipe: HealRecipe) -> Iterator[Progress]:
        """Have every rank run :meth:`slamlab.sweep.trial.Bench.heal_as_rank`; yield the first one's progress.

        Raises:
            RankLost: A rank died.
            TrialFailed: The heal failed.
        """
        ...


class Healer(TrialFacts):
    """Makes healed models.

    Args:
        settings: The sweep.
        team: Who heals on several devices; None where this process does it all.
    """

    def __init__(self, settings: Settings, team: Team | None = None) -> None:
        super().__init__(settings)
        self._clock, self._team = Clock(), team

    def _pruned_model(self, request: Request, base: Base) -> Generator[Progress, None, SlamModel]:
        """Return the base without a request's block, healed by its recipe.

        A healed model is kept at once, so that scoring it can go on after an interruption without healing again.

        Raises:
            TrialFailed: The loss is not finite, or diverges, or the device has too little memory.
        """
        recipe = self._recipe(request)
        if recipe is None:
            return _prune(request, base)
        key = fingerprint(self._model_facts(request, base))
        checkpoint = self.store.checkpoint_folder(key)
        if self.store.has_folder(checkpoint):
            with suppress(AssetError, OSError):  # dropped by another sweep at this very moment: make it again
                model = self.store.patiently(lambda: load(checkpoint)).to(device())
                self.store.drop_heal_state(key)  # of a trial killed before it could drop it
                return model
        notes: list[str] = []
        lost_at = -1
        spent_before = None
        while True:
            clock = Clock()
            keeper = self._keeper(key, clock)
            if spent_before is None:  # by processes before this one
                spent_before = (keeper.state.wall_s, keeper.state.device_s) if keeper.state else (0.0, 0.0)
            if keeper.problem:
                yield _said(f"the heal that was kept is ignored, as {keeper.problem}: it begins anew")
            if keeper.state:
                clock.add(keeper.state.wall_s, keeper.state.device_s)
                yield _said(f"the heal goes on after step {len(keeper.state.losses)}")
            try:
                if self._team:
                    together = Clock()
                    pruned, losses = yield from self._heal_together(self._team, request, base, recipe, keeper)
                    wall_s, own_s = together.read()
                    for counting in (clock, self._clock):  # all devices were busy, most of them elsewhere
                        counting.add(0.0, self.settings.devices * wall_s - own_s)
                else:
                    pruned, losses = yield from self._heal(request, base, recipe, keeper)
                break
            except RankLost as error:
                done = len(keeper.state.losses) if keeper.state else 0
                if done <= lost_at:
                    raise  # no step further than the last time
                lost_at = done
                yield _said(f"{error}: a new team goes on")
                continue
            except OutOfMemory as error:
                halved = _halved(recipe, self.settings.devices)
                if notes or halved is None:
                    keeper.drop()
                    remedy = "pass --gradient-checkpointing, or a smaller --heal-batch"
                    raise TrialFailed(f"{error}{' (more were too many before)' * bool(notes)}: {remedy}") from None
                notes.append(f"{error}: from there on half as many")
            except TrialFailed:
                keeper.drop()  # it would fail again
                raise
            torch.cuda.empty_cache()
            recipe = halved
            yield _said(notes[-1])
        self._clock.add(*spent_before)
        self.store.write_heal(key, losses, *clock.read(), notes)
        self.store.put_folder(checkpoint, pruned.save)
        keeper.drop()
        return pruned

    def _keeper(self, key: str, clock: Clock) -> Keeper:
        """Return what keeps the state of the heal with this fingerprint."""
        store = self.store
        return Keeper(store.heal_state(key), key, clock.read, changed=store.share, patiently=store.patiently)

    def _heal_together(
        self, team: Team, request: Request, base: Base, recipe: HealRecipe, keeper: Keeper
    ) -> Generator[Progress, None, tuple[SlamModel, list[float]]]:
        """Have a team heal; return the model that its first rank leaves in the store, and the losses."""
        yield from compute_features(
            self.features(base.model.config.encoder), [u for u, _ in self._jobs(request, recipe)]
        )
        losses = list(keeper.state.losses) if keeper.state else []
        base.model.to("cpu")  # the first rank takes the device of this process
        torch.cuda.empty_cache()
        try:
            for progress in team.heal(request, recipe):
                if progress.loss is not None:
                    losses.append(progress.loss)
                yield progress
        finally:
            base.model.to(device())
        checkpoint = self.store.checkpoint_folder(fingerprint(self._model_facts(request, base)))
        self.store.has_folder(checkpoint)  # now here too, where that rank's node is another
        return load(checkpoint).to(device()), losses

    def _take_part(self, request: Request, base: Base, recipe: HealRecipe) -> Generator[Progress, None, None]:
        """Heal as one rank of a team; the first one leaves the losses and the model in the store."""
        key, clock = fingerprint(self._model_facts(request, base)), Clock()
        keeper = self._keeper(key, clock)
        if keeper.state:
            clock.add(keeper.state.wall_s, keeper.state.device_s)
        pruned, losses = yield from self._heal(request, base, recipe, keeper)
        if torch.distributed.get_rank() == 0:
            self.store.write_heal(key, losses, *clock.read())
            self.store.put_folder(self.store.checkpoint_folder(key), pruned.save)

    def _jobs(self, request: Request, recipe: HealRecipe) -> list[tuple[Utterance, str]]:
        """Return what a request's model heals on, as (utterance, task)."""
        return [
            (utterance, member.task)
            for member in self._members(request)
            for utterance in self.corpus.utterances(member.language, "train", recipe.num_train)
        ]

    def _heal(
        self, request: Request, base: Base, recipe: HealRecipe, keeper: Keeper
    ) -> Generator[Progress, None, tuple[SlamModel, list[float]]]:
        """Prune and heal by a recipe on what its members hear, mixed as it comes; return model and losses."""
        pruned = _prune(request, base)
        receiver = request.start
        if not request.is_control:
            num_layers = len(surgery.decoder_layers(base.model.decoder))
            receiver = surgery.receiving_layer(LayerBlock(request.start, request.depth), num_layers, recipe.side)
        jobs, features = self._jobs(request, recipe), self.features(base.model.config.encoder)
        seed = self.settings.seed + request.repeat
        yield from compute_features(features, [utterance for utterance, _ in jobs])
        losses = list(keeper.state.losses) if keeper.state else []
        stream = speech_stream(pruned, jobs, features, recipe.train.batch_size, seed, skip=len(losses))
        for step in heal(pruned, receiver, stream, recipe, seed, keeper):
            losses.append(step.loss)
            yield Progress(stage="heal", step=step.step, num_steps=step.num_steps, loss=step.loss)
        return pruned, losses


def _prune(request: Request, base: Base) -> SlamModel:
    """Return a copy of the base without a request's block.

    Also to score it unhealed: skipped in place, the block's layers would still be computed for every token.
    """
    decoder = surgery.without(base.model.decoder, LayerBlock(request.start, request.depth))
    return base.model.with_decoder(decoder)


def _halved(recipe: HealRecipe, devices: int) -> HealRecipe | None:
    """Return a recipe with micro-batches of half the size and the same batch, None where they do not divide."""
    train = recipe.train
    if train.batch_size % (2 * train.accumulation * devices):
        return None
    return replace(recipe, train=replace(train, accumulation=2 * train.accumulation))


def _said(note: str) -> Progress:
    return Progress(stage="heal", step=0, num_steps=1, note=note)
