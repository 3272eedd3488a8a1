"""The ledger in the real optuna-dashboard, where it is installed: its own server code, called without a port."""

import json
from wsgiref.util import setup_testing_defaults

import pytest
from small_world import small_sweep
from watched import simulated, watch

from slamlab.sweep.store import Store


def get(app, path):
    """Return status and content of a page."""
    environ, told = {"PATH_INFO": path, "REQUEST_METHOD": "GET"}, []
    setup_testing_defaults(environ)
    content = b"".join(app(environ, lambda status, headers, error=None: told.append(status)))
    return told[0], content


def test_studies_open_in_the_dashboard(tmp_path):
    dashboard = pytest.importorskip("optuna_dashboard")
    settings = small_sweep(tmp_path)
    campaign, _ = watch(settings, simulated(settings))
    app = dashboard.wsgi(Store(tmp_path).ledger_url)
    status, content = get(app, "/api/studies")
    assert status.startswith("200")
    (study,) = json.loads(content)["study_summaries"]
    assert study["study_name"].startswith("tiny | qwen-mini whisper-base asr en | ")
    status, content = get(app, f"/api/studies/{study['study_id']}")
    assert status.startswith("200")
    trials = json.loads(content)["trials"]
    (ledger,) = campaign.ledgers.values()
    assert len(trials) == len(ledger.probes) > 2
    assert {one["state"] for one in trials} == {"Complete"}
    assert get(app, "/dashboard/")[0].startswith("200")
