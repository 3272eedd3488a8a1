"""`python -m slamlab ...`: what SLAMLab does for files that it did not make itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from slamlab.errors import DataError, exit_on_user_error

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
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
        typer.echo(json.dumps(result, ensure_ascii=False, allow_nan=False))
    else:
        Console(soft_wrap=True).print(_table(result), f"Signature: {result['signature']}", markup=False, highlight=False)


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


if __name__ == "__main__":
    app(prog_name="python -m slamlab")
