"""Which interval covers what it says: simulated studies whose truth is known, every estimator on the same data.

    python benchmarks/coverage.py                               all cells; fills docs/statistics.md and statistics.json
    python benchmarks/coverage.py --only "300 digits"           cells of that name, in place of their earlier numbers
    python benchmarks/coverage.py --repeats 100 --only "3 seeds" --out /dev/null                   a look, printed alone

An image has a difficulty that both arms share, one of each arm's own, and noise; a training has an effect. A prediction
is right where their sum with the arm's skill is above 0 (multi-label: the sum is the score). Seeds are fixed: the same
command gives the same table.
"""

import argparse
import json
import sys
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from scipy.special import ndtr, stdtrit
from scipy.stats import binomtest, norm

from noah.report import stats
from noah.report.moderation import Prior, fit_prior
from noah.report.pseudo_values import map_values
from noah.report.sharing import sharing

BAND = (92.5, 98.5)
"""Percent, of a 95% interval from three seeds on."""
CHOSEN = "shrunk covariance"
NOISE, CLASSES, PREVALENCE = 0.6, 8, 0.2
LOOKED_AT = 6
"""Rows of a simulated study whose intervals are computed; all of them shape the prior."""
MARKS = ("<!-- coverage -->", "<!-- /coverage -->")


@dataclass(frozen=True)
class Cell:
    """One kind of study."""

    name: str
    seeds: int
    images: int = 2000
    rows: int = 1
    spread: tuple[float, float] = (1.0, 1.0)
    """Points of top-1 (mAP: hundredths of a standard deviation of the scores), of either arm over seeds."""
    rows_differ: float = 0.0
    """Standard deviation of the logarithm of a row's spread."""
    noisy: float = 1.0
    """How many times as much as the others the first row spreads; if not once, it alone is looked at."""
    tail: str = "normal"
    """Of the seeds' effects: normal, t3, or collapse (15% of the runs lose a standard deviation of difficulty)."""
    seeds_alike: float = 0.0
    """Correlation of the arms' effects of one seed."""
    images_alike: float = 0.8
    """Correlation of the arms' difficulties of one image."""
    skill: tuple[float, float] = (1.4, 1.4)
    sources: int | None = None
    """Images show that many objects (digits, patients), which carry half of the difficulty; None: all their own."""
    objects: int = 1
    """Most objects in an image; from one on."""
    score: str = "top1"

    @property
    def slope(self) -> float:
        """Units of difficulty for a point of spread."""
        if self.score == "map":
            return 0.01
        scale = np.sqrt(1 + NOISE**2)
        return scale / (100 * norm.pdf(self.skill[0] / scale))


def cells() -> list[Cell]:
    """From two seeds to ten; moderation over 3, 8 and 26 rows; images in clusters; mAP."""
    kinds = {
        "1 point": Cell("", 0),
        "no spread": Cell("", 0, spread=(0.0, 0.0)),
        "3 points": Cell("", 0, spread=(3.0, 3.0)),
        "300 images": Cell("", 0, images=300),
        "10,000 images": Cell("", 0, images=10_000),
        "3 and 0.5 points": Cell("", 0, spread=(3.0, 0.5)),
        "heavy tails": Cell("", 0, spread=(1.5, 1.5), tail="t3"),
        "runs collapse": Cell("", 0, tail="collapse"),
        "3 points, seeds alike (.5)": Cell("", 0, spread=(3.0, 3.0), seeds_alike=0.5),
        "images not alike": Cell("", 0, images_alike=0.0),
        "images alike (.5)": Cell("", 0, images_alike=0.5),
        "one arm 2 points better": Cell("", 0, skill=(1.4, 1.57)),
    }
    studies = {
        "alike": Cell("", 0),
        "0.3 to 3 points": Cell("", 0, rows_differ=0.7),
        "arms 2 and 0.5 points": Cell("", 0, spread=(2.0, 0.5)),
        "heavy tails": Cell("", 0, spread=(1.5, 1.5), tail="t3"),
        "runs collapse": Cell("", 0, tail="collapse"),
    }
    clustered = {
        "300 digits": Cell("", 0, sources=300),
        "1,300 digits": Cell("", 0, images=4000, sources=1300),
        "scenes of 1 to 4 of 300 digits": Cell("", 0, sources=300, objects=4),
        "mAP": Cell("", 0, images=1000, score="map", spread=(20.0, 20.0)),
        "mAP, scenes of 1 to 4 of 300 digits": Cell("", 0, sources=300, objects=4, score="map", spread=(10.0, 10.0)),
    }
    made = []
    for seeds in (2, 3, 5, 10):
        made += [replace(cell, name=f"{seeds} seeds, {kind}", seeds=seeds) for kind, cell in kinds.items()]
        for rows, images in ((3, 1000), (8, 1000), (26, 500)):
            made += [
                replace(cell, name=f"{seeds} seeds, {rows} rows, {kind}", seeds=seeds, rows=rows, images=images)
                for kind, cell in studies.items()
            ]
        for rows, images in ((8, 1000), (26, 500)):
            name = f"{seeds} seeds, {rows} rows, the one of 4 times the spread"
            made.append(Cell(name, seeds, images, rows, spread=(0.5, 0.5), noisy=4.0))
    for seeds in (3, 5):
        made += [replace(cell, name=f"{seeds} seeds, {kind}", seeds=seeds) for kind, cell in clustered.items()]
    return made


def effects(cell: Cell, rng: np.random.Generator, rows: int) -> np.ndarray:
    """Of trainings, (rows, 2, seeds), in units of difficulty."""
    shape = (rows, cell.seeds)
    own = {
        "normal": rng.standard_normal,
        "collapse": rng.standard_normal,
        "t3": lambda size: rng.standard_t(3, size) / np.sqrt(3),
    }[cell.tail]
    common = own(shape)
    drawn = np.stack(
        [np.sqrt(cell.seeds_alike) * common + np.sqrt(1 - cell.seeds_alike) * own(shape) for _ in (0, 1)], 1
    )
    of_row = np.exp(cell.rows_differ * rng.standard_normal((rows, 1, 1)))
    of_row[0] *= cell.noisy
    drawn *= np.array(cell.spread)[:, None] * cell.slope * of_row
    if cell.tail == "collapse":
        drawn -= rng.random(drawn.shape) < 0.15
    return drawn


def difficulty(cell: Cell, rng: np.random.Generator, members: list[np.ndarray] | None, size: tuple) -> np.ndarray:
    """(images, ...) with variance 1; half of it belongs to the image's sources where it has any."""
    if members is None:
        return rng.standard_normal(size)
    of_source = rng.standard_normal((cell.sources, *size[1:]))
    common = np.stack([of_source[own].sum(0) / np.sqrt(len(own)) for own in members])
    return np.sqrt(0.5) * common + np.sqrt(0.5) * rng.standard_normal(size)


def row(cell: Cell, rng: np.random.Generator, u: np.ndarray, members: list | None) -> list[np.ndarray]:
    """Values of two arms, each (seeds, images)."""
    size = (cell.images,) if cell.score == "top1" else (cell.images, CLASSES)
    common = difficulty(cell, rng, members, size)
    own = [difficulty(cell, rng, members, size) for _ in (0, 1)]
    hard = [np.sqrt(cell.images_alike) * common + np.sqrt(1 - cell.images_alike) * one for one in own]
    if cell.score == "top1":
        return [
            100.0 * (rng.random((cell.seeds, cell.images)) < ndtr((cell.skill[a] + hard[a] + u[a][:, None]) / NOISE))
            for a in (0, 1)
        ]
    positive = rng.random(size) < PREVALENCE
    return [
        np.stack(
            [
                map_values((cell.skill[a] + effect) * positive + hard[a] + NOISE * rng.standard_normal(size), positive)
                for effect in u[a]
            ]
        )
        for a in (0, 1)
    ]


def truth(cell: Cell, rng: np.random.Generator) -> float:
    """The difference over all trainings and images; arms that are alike differ by nothing."""
    if cell.skill[0] == cell.skill[1] and cell.spread[0] == cell.spread[1]:
        return 0.0
    assert cell.score == "top1"
    u = effects(replace(cell, seeds=200_000 // cell.rows), rng, cell.rows)
    reached = [ndtr((skill + u[:, a]) / np.sqrt(1 + NOISE**2)).mean() for a, skill in enumerate(cell.skill)]
    return 100 * (reached[1] - reached[0])


def simulate(cell: Cell, repeats: int) -> dict:
    """Coverage, half-width and share of intervals without 0 of every estimator."""
    rng = np.random.default_rng([1, zlib.crc32(cell.name.encode())])
    true = truth(cell, rng)
    members = shared = None
    found: dict[str, list] = {}
    for _ in range(repeats):
        if cell.sources:
            counts = rng.integers(1, cell.objects, cell.images, endpoint=True)
            members = [rng.integers(0, cell.sources, count) for count in counts]
            shared = sharing([[str(one) for one in own] for own in members])
        u = effects(cell, rng, cell.rows)
        values = [row(cell, rng, u[number], members) for number in range(cell.rows)]
        parts = [stats.measure(*of_row, shared) for of_row in values]
        widths = half_widths(parts)
        if members:  # 0.1 took images as independent
            widths["before"] = np.array([before(stats.measure(*of_row), None) for of_row in values])
        if members and cell.objects > 1:
            widths["pigeonhole"] = np.array([pigeonhole(cell, rng, values[0], members, parts[0])])
        looked_at = slice(1 if cell.noisy != 1 else LOOKED_AT)
        error = np.array([one.delta for one in parts[looked_at]]) - true
        for name, of_rows in widths.items():
            width = of_rows[looked_at]
            found.setdefault(name, []).append(
                ((np.abs(error) <= width).mean(), width.mean(), (np.abs(error + true) > width).mean())
            )
    return {"cell": asdict(cell), "true": true, "estimators": {k: summary(cell, v) for k, v in found.items()}}


def summary(cell: Cell, found: list[tuple]) -> dict:
    covered, width, excludes_0 = np.array(found).T
    if cell.rows == 1 or cell.noisy != 1:
        interval = binomtest(int(covered.sum()), len(covered)).proportion_ci(0.99)
    else:
        error = norm.ppf(0.995) * covered.std(ddof=1) / np.sqrt(len(covered))
        interval = (covered.mean() - error, covered.mean() + error)
    return {
        "coverage": 100 * covered.mean(),
        "coverage_99": [100 * edge for edge in interval],
        "half_width": width.mean(),
        "excludes_0": 100 * excludes_0.mean(),
    }


def half_widths(parts: list[stats.Parts]) -> dict[str, np.ndarray]:
    """95% half-widths of the first rows, by estimator; "…, moderated" learns the spread over seeds from all rows."""
    arms = tuple(fit_prior([getattr(one, name) for one in parts]) for name in ("scores_from", "scores_to"))
    paired = fit_prior([np.subtract(one.scores_to, one.scores_from) for one in parts])
    parts = parts[:LOOKED_AT]
    rules = {"before": before, "Welch beside images": welch_beside_images, "MRMC, Hillis": hillis}
    made = {}
    kinds = {"": ((None, None), None), ", moderated": (arms, paired)}
    for more, (own, pairs) in kinds.items():
        if more and own == (None, None):
            continue
        for name, rule in rules.items():
            made[name + more] = [rule(one, pairs if name != "Welch beside images" else own) for one in parts]
        made["Satterthwaite" + more] = [satterthwaite(one, own) for one in parts]
        made[CHOSEN + more] = [stats.conclude(one, own).half_width() for one in parts]
    return {name: np.array(widths) for name, widths in made.items()}


def spread(scores, prior: Prior | None) -> tuple[float, float]:
    variance, df = np.var(scores, ddof=1), len(scores) - 1.0
    return prior.moderate(variance, df) if prior else (variance, df)


def quantile(df: float) -> float:
    return stdtrit(df, 0.975)


def before(parts: stats.Parts, prior: Prior | None) -> float:
    """Of noah 0.1: Student's t over paired seeds, beside the images' normal interval (a bootstrap, there)."""
    variance, df = spread(np.subtract(parts.scores_to, parts.scores_from), prior)
    seeds = quantile(df) * np.sqrt(variance / len(parts.scores_to))
    return np.hypot(seeds, 1.96 * np.sqrt(parts.image_variance))


def welch_beside_images(parts: stats.Parts, priors: tuple) -> float:
    """Half-widths of seeds and images, each on its own, as the sides of a right angle."""
    sides = [(v / len(parts.scores_to), df) for v, df in map(spread, (parts.scores_from, parts.scores_to), priors)]
    seeds = sum(v for v, _ in sides)
    df = seeds**2 / sum(v**2 / df for v, df in sides) if seeds else 1.0
    return np.hypot(quantile(df) * np.sqrt(seeds), 1.96 * np.sqrt(parts.image_variance))


def hillis(parts: stats.Parts, prior: Prior | None) -> float:
    """Obuchowski and Rockette's variance with Hillis' degrees of freedom: seeds are readers, paired."""
    variance, df = spread(np.subtract(parts.scores_to, parts.scores_from), prior)
    seeds = variance / len(parts.scores_to)
    total = seeds + max(parts.image_variance - parts.residual_variance, 0)
    return quantile(df * (total / seeds) ** 2) * np.sqrt(total) if seeds else 1.96 * np.sqrt(total)


def satterthwaite(parts: stats.Parts, priors: tuple) -> float:
    """The chosen one without the covariance of seeds."""
    return stats.conclude(replace(parts, shared_seeds=0), priors).half_width()


def pigeonhole(cell: Cell, rng, values: list, members: list, parts: stats.Parts) -> float:
    """The chosen one with Owen's (2007) bootstrap of objects for its images: a scene counts by the product."""
    difference = values[1].mean(0) - values[0].mean(0)
    weights = rng.poisson(1, (100, cell.sources))
    scenes = np.stack([weights[:, own].prod(1) for own in members], 1)
    resampled = (scenes @ difference) / scenes.sum(1)
    return stats.conclude(replace(parts, image_variance=float(resampled.var(ddof=1)))).half_width()


def markdown(results: list[dict]) -> str:
    """Coverage of every estimator; half-widths relative to `before`."""
    names = ["before", "Welch beside images", "MRMC, Hillis", "Satterthwaite", CHOSEN]
    names += [f"{name}, moderated" for name in names]
    lines = []
    for title, wanted in (
        ("One row", lambda cell: cell["rows"] == 1 and not cell["sources"] and cell["score"] == "top1"),
        ("Studies of several rows", lambda cell: cell["rows"] > 1),
        ("Clusters and mAP", lambda cell: cell["sources"] or cell["score"] == "map"),
    ):
        chosen = [result for result in results if wanted(result["cell"])]
        if not chosen:
            continue
        shown = [name for name in [*names, "pigeonhole"] if any(name in r["estimators"] for r in chosen)]
        lines += [f"**{title}**", "", "| study | " + " | ".join(shown) + " |", "|---" * (len(shown) + 1) + "|"]
        for result in chosen:
            found, reference = result["estimators"], result["estimators"]["before"]["half_width"]
            cells = [shown_cell(found.get(name), reference, result["cell"]["seeds"]) for name in shown]
            lines.append(f"| {result['cell']['name']} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def shown_cell(found: dict | None, reference: float, seeds: int) -> str:
    if found is None:
        return ""
    text = f"{found['coverage']:.1f} ({found['half_width'] / reference:.2f})"
    return f"**{text}**" if seeds >= stats.SEEDS_FOR_A_VERDICT and not passes(found) else text


def passes(found: dict) -> bool:
    """Whether the 99% interval of the coverage reaches into the band."""
    low, high = found["coverage_99"]
    return high >= BAND[0] and low <= BAND[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--only", default="", help="cells whose name contains this")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/statistics.md"))
    arguments = parser.parse_args()
    wanted = [cell for cell in cells() if arguments.only in cell.name]
    wanted.sort(key=lambda cell: -cell.rows * cell.seeds * cell.images)  # the long ones first
    with ProcessPoolExecutor(arguments.workers) as pool:
        results = list(pool.map(simulate, wanted, [arguments.repeats] * len(wanted)))
    print(markdown(results))
    if arguments.out.suffix == ".md":
        write(arguments.out, results)


def write(page: Path, results: list[dict]) -> None:
    """The table between its marks, and all numbers beside it; cells that were not run keep theirs."""
    numbers = page.with_suffix(".json")
    earlier = json.loads(numbers.read_text(encoding="utf-8")) if numbers.exists() else []
    by_name = {result["cell"]["name"]: result for result in (*earlier, *results)}
    kept = [by_name[cell.name] for cell in cells() if cell.name in by_name]
    head, rest = page.read_text(encoding="utf-8").split(MARKS[0])
    page.write_text(f"{head}{MARKS[0]}\n{markdown(kept)}\n{MARKS[1]}{rest.split(MARKS[1])[1]}", encoding="utf-8")
    numbers.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
