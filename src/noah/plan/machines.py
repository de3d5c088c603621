"""GPUs by the numbers of their data sheets, and what a node of them is called: `h100x8`."""

from dataclasses import dataclass

from noah.evaluate.estimate import PASSES, UTILISATION, Device


@dataclass(frozen=True)
class Card:
    """Peaks without sparsity, from NVIDIA's data sheets (SXM forms)."""

    tflops: dict[str, float]
    """Per precision of a recipe."""
    terabytes_per_s: float
    memory_gib: float

    def device(self, name: str) -> Device:
        """What training gets of the peaks, by the two published runs that `noah.evaluate.estimate` rests on."""
        flops = {precision: UTILISATION * 1e12 * peak for precision, peak in self.tflops.items()}
        return Device(name, "GPU-hours", flops, self.terabytes_per_s * 1e12 / PASSES)


CARDS = {
    "a100": Card({"bf16": 312, "fp16": 312, "tf32": 156, "fp32": 19.5}, 1.555, 40),
    "a100-80": Card({"bf16": 312, "fp16": 312, "tf32": 156, "fp32": 19.5}, 2.039, 80),
    "h100": Card({"bf16": 989, "fp16": 989, "tf32": 494, "fp32": 67}, 3.35, 80),
    "h200": Card({"bf16": 989, "fp16": 989, "tf32": 494, "fp32": 67}, 4.8, 141),
}


@dataclass(frozen=True)
class Node:
    """Some cards of one kind in one machine."""

    name: str
    card: Card
    gpus: int

    @property
    def device(self) -> Device:
        return self.card.device(self.name)


def parse_node(text: str) -> Node:
    """`h100x8`: eight cards of `CARDS`.

    Raises:
        ValueError: Another card, or no number of them.
    """
    name, _, number = text.lower().rpartition("x")
    if name not in CARDS or not (number.isascii() and number.isdigit()) or int(number) < 1:
        raise ValueError(f"--on is '{text}', expected a card and how many, such as h100x8; cards: {', '.join(CARDS)}")
    return Node(text.lower(), CARDS[name], int(number))
