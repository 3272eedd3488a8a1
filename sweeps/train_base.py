"""Train an unpruned SLAM model, score it on every task and language of its corpus, and write its card.

This is how the bases that ship with the project were made. Corpora that are joined (`--data wordnet,asterisk,pocket`)
teach in equal shares, and each is scored by itself. A folder that holds a model already is scored, not trained
again. Use the result with `max_prune.py --base FOLDER`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slamlab.errors import AssetError, exit_on_user_error
from slamlab.terminal import make_console

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command(help=__doc__)
def main(
    out: Annotated[Path, typer.Argument(help="Folder of the model, made where missing.")],
    family: Annotated[str, typer.Option(help="Decoder family: qwen or llama.")] = "qwen",
    scale: Annotated[str, typer.Option(help="Decoder scale: mini, 135m ...")] = "mini",
    encoder: Annotated[str, typer.Option(help="Speech encoder by name, hub id or folder.")] = "whisper-base",
    profile: Annotated[str, typer.Option(help="Where the recipe comes from: pocket or paper.")] = "pocket",
    data: Annotated[
        str | None,
        typer.Option(help="Corpus by name, NAME=FOLDER or manifest, several with commas; default: the profile's."),
    ] = None,
    language: Annotated[list[str], typer.Option(help="Spoken language to learn: en, de, fr ...; default: all.")] = [],
    init: Annotated[
        Path | None,
        typer.Option(help="Folder of a base that this command made, to go on from by the recipe's last stage."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and shuffles.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    store: Annotated[str, typer.Option(help="Folder of audio, encoder frames and scores, or a URL.")] = "runs",
) -> None:
    """Parse, train, score, describe."""
    console = make_console()
    with exit_on_user_error():
        import torch

        from slamlab.sweep import launch
        from slamlab.sweep.bases import CARD_FILE, check_given
        from slamlab.sweep.command import split
        from slamlab.sweep.describe import train_and_describe

        torch.set_num_threads(threads)
        chosen, _ = launch.choose_profile(profile, None)
        settings, corpus = launch.prepare(
            chosen, name="train_base", families=[family], scales=[scale], encoders=[encoder], tasks=["all"],
            languages=split(language) or ["all"], data=data, store=store, heal={}, num_selection=None, num_test=None, seed=seed,
        )  # fmt: skip
        launch.check_assets(settings)
        if init is not None:
            check_given(init, settings.cells[0])
            if not (init / CARD_FILE).is_file():
                raise AssetError(
                    f"a base to go on from has a {CARD_FILE}", init, "give a folder that this command made"
                )
        train_and_describe(settings, corpus, out, lambda line: console.print(line, markup=False), init=init)


if __name__ == "__main__":
    app()
