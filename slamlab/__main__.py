"""`python -m slamlab ...`: scores of anybody's files, the smaller model in the user's hands, how sweeps stand."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from slamlab.credentials import refuse_credentials
from slamlab.errors import DataError, OptionError, exit_on_user_error
from slamlab.sweep.status_command import status
from slamlab.sweep.store_command import app as store_commands
from slamlab.terminal import json_line, make_console, one_line, printable

if TYPE_CHECKING:
    from slamlab.export.answers import Answer

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
app.add_typer(store_commands, name="store")
JSON_LINES = "JSON Lines with `id` and"


@app.callback()
def main() -> None:
    """SLAMLab: how many decoder layers does my SpeechLLM not need? Sweeps are in `sweeps/`; here are its tools."""


# fmt: off
@app.command()
def score(
    references: Annotated[Path, typer.Argument(metavar="REFS", help=f"{JSON_LINES} `reference`.")],
    hypotheses: Annotated[Path, typer.Argument(metavar="HYPS", help=f"{JSON_LINES} `hypothesis`, of the same ids in any order.")],
    language: Annotated[str, typer.Option(help="Code of the language of the texts: de, en, zh ...; of a translation, the language translated into.")],
    task: Annotated[str, typer.Option(help="asr (recognition) or st (translation).")] = "asr",
    baseline: Annotated[Path | None, typer.Option(metavar="HYPS", help="Hypotheses of the unpruned model: adds relative degradation, interval and verdict.")] = None,
    metric: Annotated[str | None, typer.Option(help="wer, cer, bleu or chrf; default: WER (CER for zh, ja, th, lo, my, yue, km), BLEU for st.")] = None,
    tolerance: Annotated[float, typer.Option(help="Largest relative loss accepted: 0.25 lets a WER of 10 % become 12.5 %.")] = 0.25,
    alpha: Annotated[float, typer.Option(help="A verdict holds with probability 1 - alpha.")] = 0.05,
    resample: Annotated[Literal["utterance", "speaker"], typer.Option(help="What intervals draw again; speaker needs `speaker` in REFS or HYPS.")] = "utterance",
    num_resamples: Annotated[int, typer.Option(help="Resamples of the bootstrap.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    spell_numbers: Annotated[bool, typer.Option("--spell-numbers", help="Spell digits out on both sides first, so that `20` and `zwanzig` are equal (English needs no such thing).")] = False,
    records: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the texts as they were compared, one utterance a line.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    # fmt: on
    """Score hypotheses against references, as a sweep does: normalised, with intervals and a signature.

    Example: `python -m slamlab score refs.jsonl hyps.jsonl --language de --task asr --baseline base.jsonl`
    """
    with exit_on_user_error():
        from slamlab.scoring.files import Scoring, score_files
        from slamlab.scoring.records import write_records

        how = Scoring(
            language=language, task=task, metric=metric, by_speaker=resample == "speaker", spell_numbers=spell_numbers,
            tolerance=tolerance, alpha=alpha, num_resamples=num_resamples, seed=seed,
        )  # fmt: skip
        result, scored = score_files(references, hypotheses, how, baseline=baseline)
        if records is not None:
            try:
                write_records(records, scored.records)
            except OSError as error:
                rule = "records are written to a file"
                raise DataError(rule, f"{records} ({error.strerror})", "check the path") from None
    if as_json:
        typer.echo(json_line(result))
    else:
        make_console().print(_table(result), f"Signature: {result['signature']}")


def _table(result: dict[str, Any]) -> Table:
    """Return a result as a table to read."""
    name, is_rate = result["metric"].upper(), result["metric"] in ("wer", "cer")

    def show(value: float) -> str:
        return f"{100 * value:.2f} %" if is_rate else f"{value:.2f}"

    low, high = map(show, result["value_ci95"])
    rows = {name: f"{show(result['value'])}  [{low}, {high}]"}
    for other, found in result.get("also", {}).items():
        rows[other.upper()] = f"{found['value']:.2f}"
    if is_rate:
        unit = "words" if result["metric"] == "wer" else "characters"
        edits = (result[kind] for kind in ("insertions", "deletions", "substitutions"))
        rows["Insertions / deletions / substitutions"] = f"{' / '.join(map(str, edits))} of {result[f'num_{unit}']} {unit}"
    rows["Utterances"] = f"{result['num_utterances']} ({result['num_empty_references']} more had an empty reference)"
    guards = ("num_empty_hypotheses", "num_loops", "num_capped", "num_premature")
    rows["Answers empty / looping / capped / cut short"] = " / ".join(str(result[guard]) for guard in guards)
    if "verdict" in result:
        rows["Baseline"] = show(result["baseline_value"])
        change, *ends = (
            "unbounded" if end is None else f"{100 * end:+.1f} %"
            for end in (result["relative_degradation"], *result["ci95"])
        )
        rows["Relative degradation"] = f"{change}  [{', '.join(ends)}]"
        rows[f"P(within {100 * result['tolerance']:g} %)"] = f"{result['p_within']:.4f}"
        rows["Verdict"] = result["verdict"]
    rows["Intervals"] = f"95 %, {'paired ' if 'verdict' in result else ''}bootstrap, {result['num_resamples']} resamples by {result['resampled']}, seed {result['seed']}"
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    for label, text in rows.items():
        table.add_row(label, text)
    return table


# fmt: off
@app.command()
def export(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="REPORT_OR_CHECKPOINT", help="Folder of a sweep's report, or of one model.")],
    out: Annotated[Path, typer.Option(help="New or empty folder. Of a report without --cell it gets a folder for each model.")],
    cell: Annotated[str, typer.Option(metavar="WORDS", help="One cell of the report, such as 'asr en' or joint; default: all that have a model.")] = "",
    store: Annotated[str, typer.Option(help="The sweep's store, a folder or a URL, which holds the checkpoints.")] = "runs",
    base: Annotated[Path | None, typer.Option(metavar="FOLDER", help="The unpruned model, to measure beside; default: found by its fingerprint where it ships or lies in the store.")] = None,
    max_shard_size: Annotated[str, typer.Option(metavar="SIZE", help="Largest file of the weights: 2GB, 500MB ...")] = "2GB",
    dtype: Annotated[Literal["bf16", "fp32"] | None, typer.Option(help="Type of the weights; default: the checkpoint's.")] = None,
    decoder: Annotated[bool, typer.Option("--decoder/--no-decoder", help="Of a SpeechLLM of transformers, write the decoder once more by itself, as the causal LM that engines for text load.")] = True,
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help="Measure size, memory and speed side by side with the unpruned model.")] = True,
    push: Annotated[str, typer.Option(metavar="OWNER/NAME", help="Also upload to the Hugging Face hub, as a private model, with the login of `hf auth login`.")] = "",
) -> None:
    # fmt: on
    """Write healed models as folders of their own: checked, measured and described, ready to load or to publish.

    Example: `python -m slamlab export reports/max_prune-qwen --cell "asr en" --out exports/qwen-asr-en`
    """
    console = make_console(stderr=True)
    with exit_on_user_error():
        from transformers.utils.logging import disable_progress_bar

        from slamlab.export.answers import read_answers
        from slamlab.export.export import export as export_model
        from slamlab.export.folder import check_new, check_shard_size
        from slamlab.export.hub import check_target
        from slamlab.export.hub import push as push_folder
        from slamlab.sweep.store import Store

        disable_progress_bar()  # of loading weights, many times
        check_shard_size(max_shard_size)
        root = Store(store).fetch_for(source, models=True)
        answers = read_answers(source, root, cell)
        is_one = bool(cell) or not answers[0].found
        folders = [out if is_one else out / answer.name for answer in answers]
        for folder in (out, *folders):
            check_new(folder)
        if push:
            if len(answers) > 1:
                raise OptionError("--push takes one model", f"{len(answers)} models", "choose one with --cell")
            check_target(push)
        command = shlex.join(["python", "-m", "slamlab", "export", str(source), "--out", str(out), *_given(context)])
        refuse_credentials(command)
        for answer, folder in zip(answers, folders, strict=True):
            unpruned = base or _unpruned(answer, store)
            if measure and unpruned is None:
                console.print(f"note: {folder} is not measured, as its unpruned model was not found: give it with --base.", markup=False, highlight=False)
            export_model(
                answer, folder, cache=root / "cache" / "models", command=command, precision=dtype, max_shard_size=max_shard_size,
                base=unpruned, measured=measure, with_decoder=decoder, say=lambda line: console.print(line, markup=False, highlight=False),
            )  # fmt: skip
            typer.echo(printable(folder))
        if push:
            typer.echo(printable(push_folder(folders[0], push)))


def _unpruned(answer: Answer, store: str) -> Path | None:
    """Return the folder of the unpruned model, by its fingerprint; None where it is not at hand any more."""
    from slamlab.sweep.bases import folder_of
    from slamlab.sweep.store import Store

    found = answer.found
    if not (known := (found.get("base") or {}).get("fingerprint")):
        return None
    return folder_of(known, Store(store), found["encoder"] if found["encoder"] == found["family"] else "")


def _given(context: typer.Context) -> list[str]:
    """Return the options of an export that change the folder, and were given."""
    told = ["--no-decoder"] if not context.params["decoder"] else []
    for name in ("cell", "store", "base", "max_shard_size", "dtype"):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            told += [f"--{name.replace('_', '-')}", str(context.params[name])]
    return told


# fmt: off
AudioFiles = Annotated[list[Path], typer.Argument(metavar="AUDIO...", help="Files that libsndfile or FFmpeg decodes, of any length.", show_default=False)]
ModelFolder = Annotated[Path, typer.Option("--model", metavar="FOLDER_OR_ID", help="Folder of a model that SLAMLab wrote (an export, a checkpoint, a base), or folder or hub id of a SpeechLLM of transformers.")]
Spoken = Annotated[str, typer.Option(metavar="CODE", help="Code of the language spoken: de, en ...; default: the model's, where its card names one.")]
Beams = Annotated[int, typer.Option(help="1 decodes greedily.")]
BatchSize = Annotated[int, typer.Option(help="Pieces of 30 s at most that are answered together.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...; default: a GPU where there is one.")]
StoreFolder = Annotated[Path, typer.Option(help="Where converted weights of encoders are kept, in cache/models.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON Lines with segments and their times.")]
# fmt: on


@app.command()
def transcribe(
    paths: AudioFiles, model: ModelFolder, language: Spoken = "", beams: Beams = 1, batch_size: BatchSize = 16,
    device: Device = "", store: StoreFolder = Path("runs"), as_json: AsJson = False,
) -> None:  # fmt: skip
    """Write what is said in audio files, one line a file.

    Example: `python -m slamlab transcribe --model exports/qwen-asr-en talk.mp3`
    """
    _hear("asr", paths, model, language, "", beams, batch_size, device, store, as_json)


@app.command()
def translate(
    paths: AudioFiles, model: ModelFolder, language: Spoken = "", beams: Beams = 1, batch_size: BatchSize = 16,
    device: Device = "", store: StoreFolder = Path("runs"), as_json: AsJson = False,
    to: Annotated[str, typer.Option(metavar="CODE", help="Language to translate into: en is what models learn here, a SpeechLLM of transformers can be asked for any.")] = "en",
) -> None:  # fmt: skip
    """Write what is said in audio files in another language, one line a file.

    Example: `python -m slamlab translate --model exports/qwen-st-de --language de talk.mp3`
    """
    _hear("st", paths, model, language, to, beams, batch_size, device, store, as_json)


def _hear(
    task: str, paths: list[Path], name: Path, language: str, to: str, beams: int, batch_size: int, device: str, store: Path, as_json: bool
) -> None:  # fmt: skip
    """Print what a model hears in audio files."""
    console = make_console(stderr=True)
    with exit_on_user_error():
        from transformers.utils.logging import disable_progress_bar

        from slamlab.model.slam import find_folder, load
        from slamlab.model.transcribe import known_language, made_for, pick_device
        from slamlab.model.transcribe import transcribe as hear
        from slamlab.zoo.encoders import load_encoder

        disable_progress_bar()
        if batch_size < 1 or beams < 1:
            raise OptionError("--batch-size and --beams are 1 or more", f"{batch_size} and {beams}", "raise them")
        where, cache = pick_device(device), store / "cache" / "models"
        folder = find_folder(name)
        language = language or known_language(folder)
        if (tasks := made_for(folder, "tasks")) and task not in tasks:
            console.print(
                f"note: {name} was healed for {', '.join(tasks)}, not for {task}.", markup=False, highlight=False
            )
        model = load(name, cache=cache).to(where)
        if where.type == "cpu":  # where an answer then does not depend on its batch, and bf16 is no faster
            model = model.in_precision("fp32")
        encoder = load_encoder(model.encoder_name, cache, str(where))
        heard = hear(
            model, encoder, paths, task=task, language=language, target_language=to or "en", num_beams=beams, batch_size=batch_size,
            say=lambda line: console.print(line, markup=False, highlight=False),
        )  # fmt: skip
        for one in heard:
            told = {
                "file": str(one.audio),
                "task": task,
                "language": language,
                **({"target_language": to} if to else {}),
                "text": one.text,
                "segments": [asdict(part) for part in one.segments],
            }
            typer.echo(json_line(told) if as_json else one_line(one.text))


app.command()(status)

if __name__ == "__main__":
    app(prog_name="python -m slamlab")
