"""Downloading one raw file; it appears under its name only when it is what it must be."""

import hashlib
import http.client
import urllib.request
from pathlib import Path

from noah.config.dataset import RawFile
from noah.files import write_atomic

TIMEOUT_S = 30
"""Without a byte."""
_BLOCK = 1 << 20


def download(url: str, path: Path, expected: str | RawFile) -> Path:
    """Fetch `url` to `path`, through the proxy that the environment names, if any.

    Args:
        url: http or https.
        path: A file that is there is replaced.
        expected: sha256, or what else is known of the file.

    Raises:
        ValueError: The network, the server or the disk fails, or the file has another size or hash; nothing is left.
    """
    expected = RawFile(sha256=expected) if isinstance(expected, str) else expected
    algorithm = "sha256" if expected.sha256 or not expected.md5 else "md5"
    digest, size = hashlib.new(algorithm), 0
    try:
        with write_atomic(path) as temporary, open(temporary, "wb") as file:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
                while block := response.read(_BLOCK):
                    file.write(block)
                    digest.update(block)
                    size += len(block)
            _compare(url, size, digest.hexdigest(), algorithm, expected)
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(
            f"{url}: cannot be downloaded: {getattr(error, 'reason', None) or error}; "
            f"download it by other means and put it at {path}"
        ) from None
    return path


def _compare(url: str, size: int, found: str, algorithm: str, expected: RawFile) -> None:
    if expected.bytes not in (None, size):
        raise ValueError(f"{url}: got {size:,} bytes, expected {expected.bytes:,}")
    digest = getattr(expected, algorithm)
    if digest not in (None, found):
        raise ValueError(f"{url}: {algorithm} is {found}, expected {digest}")
