"""What opens a server is cut out of every message; the rest of the message stays."""

import pytest

from noah.redact import without_secrets


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://me:pw@host:1/a", "http://host:1/a"),
        ("http://me:p/w@host", "http://host"),
        ("http://me:p@w@host", "http://host"),
        ("two\n lines of https://me@host/a?key=1 text", "two lines of https://host/a text"),
        ("url: /api?token=1 (refused)", "url: /api (refused)"),
        (
            "MLFLOW_TRACKING_URI is 'me:pw@host:5000', expected http://",
            "MLFLOW_TRACKING_URI is 'host:5000', expected http://",
        ),
        ("s3://key:secret@bucket/noah and gs://bucket/noah", "s3://bucket/noah and gs://bucket/noah"),
        ("https://bucket.example.org/a?X-Amz-Signature=abc&x=1: refused", "https://bucket.example.org/a refused"),
        ("{'Authorization': 'Basic bWU6cHc='}", "{'Authorization': 'Basic ***'}"),
        ("authorization: Bearer abc.def", "authorization: Bearer ***"),
    ],
)
def test_secrets_are_cut_out_of_addresses_and_headers(text, expected):
    assert without_secrets(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////tmp/a.db",
        "config/recipes/a.yaml: epochs: got 'ten', expected a number",
        "no run 'a/b', did you mean 'a/c'?",
        "device is 'cuda', but torch sees no GPU here",
        "results/digits: 3 of 4: see docs/data.md",
    ],
)
def test_other_messages_stay_as_they_are(text):
    assert without_secrets(text) == text


def test_the_secrets_of_the_environment_are_cut_out_wherever_they_stand(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "open sesame")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0k3n")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:quo'ted pass@host")
    for secret in ("open sesame", "t0k3n", "quo'ted pass"):
        assert without_secrets(f"the server said '{secret}' is wrong") == "the server said '***' is wrong"
    assert without_secrets("t0k3ns") == "t0k3ns"
