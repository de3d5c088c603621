"""What a person sees of a run: a live bar on a terminal, plain lines in a log file. The run's own log keeps them."""

import time
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from noah.files import naming

LINE_EVERY_S = 30
DRAW_EVERY_S = 0.1


class ProgressReport:
    """Counts images of this process's share of the work.

    Args:
        log: Appended to, so that it survives a retry.
        total_steps: Optimizer steps of the whole run; `first_step` of them are already done.
        images_per_step: Global batch.
        quiet: Prints nothing (ranks other than the first).
    """

    def __init__(self, log: Path, total_steps: int, first_step: int, images_per_step: int, quiet: bool = False):
        self._console = Console(quiet=quiet, soft_wrap=True, highlight=False)
        self._log_path = log
        self._quiet = quiet
        self._total, self._first, self._images_per_step = total_steps, first_step, images_per_step
        columns = ("{task.description}", BarColumn(), "{task.completed}/{task.total} steps", "{task.fields[rate]}")
        self._bar = Progress(
            *(TextColumn(c) if isinstance(c, str) else c for c in columns),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal or quiet,
        )

    def __enter__(self):
        self._log = open(self._log_path, "a", encoding="utf-8")
        self._bar.start()
        self._task = self._bar.add_task("train", total=self._total, completed=self._first, rate="")
        self._started = self._last_line = time.monotonic()
        self._drawn = 0.0
        return self

    def __exit__(self, *_):
        self._bar.stop()
        with suppress(OSError):  # of a full disk, which `say` told already
            self._log.close()

    def say(self, line: str) -> None:
        if not self._quiet:
            self._console.print(line, markup=False)
            with naming(self._log_path):
                print(time.strftime("%Y-%m-%dT%H:%M:%S"), line, file=self._log, flush=True)

    def step(self, step: int, epoch: int, loss: float, lr: float) -> None:
        """After an optimizer step; `step` counts the finished ones."""
        now = time.monotonic()
        if now - self._drawn < DRAW_EVERY_S and step < self._total:
            return
        self._drawn = now
        rate = (step - self._first) * self._images_per_step / max(now - self._started, 1e-9)
        self._bar.update(self._task, completed=step, description=f"epoch {epoch}", rate=f"{rate:.0f} images/s")
        if now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            left_s = (self._total - step) * self._images_per_step / max(rate, 1e-9)
            self.say(
                f"epoch {epoch} step {step}/{self._total} loss {loss:.4f} lr {lr:.2e} {rate:.0f} images/s "
                f"{_clock(left_s)} left"
            )

    def epoch(self, row: dict) -> None:
        """After an epoch; `row` is its line of history.csv."""
        metric, name = ("minival_map", "mAP") if "minival_map" in row else ("minival_top1", "top-1")
        seen = row[metric]
        minival = "" if seen is None else f" minival loss {row['minival_loss']:.4f} {name} {seen:.2f}%"
        self.say(
            f"epoch {row['epoch']} step {row['step']}/{self._total} loss {row['train_loss']:.4f} lr {row['lr']:.2e} "
            f"{row['images_per_s']:.0f} images/s{minival}"
        )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
