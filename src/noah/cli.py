"""The `noah` command. What it writes is described in docs/."""

import sys

import typer

from noah.benchmark.cli import app as benchmark
from noah.commands.data import app as data
from noah.commands.runs import app as runs
from noah.commands.studies import app as studies
from noah.data.workers import lost_worker
from noah.redact import without_secrets
from noah.signals import Interrupted

app = typer.Typer(
    help="Train and compare heads of image classifiers.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verbs in (data, runs, studies):
    app.add_typer(verbs)
app.add_typer(benchmark, name="benchmark")


def main() -> None:
    """Run the command line; an error that a user can mend is one line and exit code 2."""
    try:
        app()
    except ValueError as error:
        sys.exit(_fail(error, 2))
    except FloatingPointError as error:
        sys.exit(_fail(error, 1))
    except OSError as error:
        sys.exit(_fail(f"{error.filename or 'input/output'}: {error.strerror or error}", 1))
    except (RuntimeError, EOFError) as error:
        if not (lost := lost_worker(error)):
            raise
        sys.exit(_fail(lost, 1))
    except MemoryError:
        sys.exit(_fail("no memory left", 1))
    except KeyboardInterrupt:
        sys.exit(130)
    except Interrupted as error:
        sys.exit(_fail(error, 128 + error.signum))


def _fail(message, code: int) -> int:
    print(f"error: {without_secrets(str(message))}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
