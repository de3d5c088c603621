"""Messages without what opens a server: whatever noah prints, logs or writes of an address goes through here first."""

import os
import re

SECRET_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
ADDRESS_VARIABLES = ("MLFLOW_TRACKING_URI",)
HIDDEN = "***"

_PATTERNS = (
    (re.compile(r"://[^\s'\"]*@"), "://"),  # greedy: a password may hold an @ or a /
    (
        re.compile(r"(?<![^\s'\"(=])[^\s'\"/@:]+:[^\s'\"@]+@(?=[\w.\[])"),
        "",
    ),  # me:password@host, where http:// is missing
    (re.compile(r"\?[^\s'\")]+"), ""),
    (re.compile(r"(?i)(\bauthorization\W+(?:(?:basic|bearer)\s+)?)[^\s'\",]+"), rf"\1{HIDDEN}"),
)


def without_secrets(text: str) -> str:
    """`text` on one line, without the `user:password@` and the query of any address in it, or a secret of MLflow's
    environment variables."""
    for secret in _secrets():
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
    text = " ".join(text.split())
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def _secrets() -> list[str]:
    """What is secret by its place in the environment, however odd its characters; the longest first."""
    found = {os.environ.get(name, "") for name in SECRET_VARIABLES}
    for name in ADDRESS_VARIABLES:
        login, at, _ = os.environ.get(name, "").rpartition("@")
        if at:
            found.add(login.rpartition("://")[2].partition(":")[2])
    return sorted(found - {""}, key=len, reverse=True)
