"""Does the study find a truth that was planted, and nothing where there is none?

    python benchmarks/planted.py --repetitions 3
    python benchmarks/planted.py --nothing --repetitions 20

Data are made by a network whose bias is tied, of rank 2, or has row offsets, with noise; a network of the
same kind is trained on them under each tying. With ``--nothing``, textures are told apart that are the same
everywhere: whatever is found then is found by chance.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

import convbias
from convbias.study import Recipe, Regression, Study, compare
from convbias.study.report import verdict

SIZE, WIDTH, NOISE = 14, 6, 0.3
TYINGS = ("none", "tap", "c h", "c w", "c h + c w", "rank:1", "rank:2", "untied")


def teacher(bias: str, generator: torch.Generator) -> nn.Module:
    """A network with a bias of this kind in its first layer, large enough to matter."""
    torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
    first = convbias.Conv2d(1, WIDTH, 3, padding=1, bias=bias, output_size=(SIZE, SIZE))
    for name, parameter in first.named_parameters():
        if name.startswith("bias"):
            nn.init.normal_(parameter)
    return nn.Sequential(first, nn.ReLU(), nn.Conv2d(WIDTH, 1, 3, padding=1))


def student() -> nn.Module:
    """The same network, its bias tied."""
    return nn.Sequential(nn.Conv2d(1, WIDTH, 3, padding=1), nn.ReLU(), nn.Conv2d(WIDTH, 1, 3, padding=1))


@torch.no_grad()
def planted(bias: str, repetition: int, seeds: int) -> Study:
    """A study on data that a network with this bias made."""
    generator = torch.Generator().manual_seed(repetition)
    x = torch.randn(1400, 1, SIZE, SIZE, generator=generator)
    y = teacher(bias, generator)(x)
    y = y / y.std() + NOISE * torch.randn(y.shape, generator=generator)
    train, validation, test = (slice(1000), slice(1000, 1200), slice(1200, 1400))
    with torch.enable_grad():
        return compare(
            *(student, (x[train], y[train]), (x[test], y[test])),
            validation=(x[validation], y[validation]),
            task=Regression(),
            tyings=TYINGS,
            where="0",
            seeds=seeds,
            recipe=Recipe(epochs=25, batch_size=50, learning_rate=1e-2),
        )


def textures(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noise smoothed along one of three directions, the same everywhere and in every image's place."""
    labels = torch.randint(3, (n,), generator=generator)
    noise = torch.randn(n, SIZE, SIZE, generator=generator)
    images = torch.stack(
        [noise + k * noise.roll((a, b), (1, 2)) for k, a, b in ((0.5, 0, 1), (0.5, 1, 0), (0.5, 1, 1))]
    )
    chosen = images[labels, torch.arange(n)]
    return (chosen + torch.randn(chosen.shape, generator=generator))[:, None], labels


def nothing(repetition: int, seeds: int) -> Study:
    """A study on data in which no place differs from another."""
    generator = torch.Generator().manual_seed(repetition)

    def network() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
        )

    train, validation, test = (textures(n, generator) for n in (1000, 300, 600))
    recipe = Recipe(epochs=10, batch_size=50, learning_rate=5e-3)
    return compare(network, train, test, validation=validation, seeds=seeds, recipe=recipe)


def main() -> None:
    """Run what is asked, a line for each study."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--nothing", action="store_true", help="only data without any effect of position")
    asked = parser.parse_args()
    kinds: dict[str, Callable[[int, int], Study]] = {"nothing": nothing}
    if not asked.nothing:
        kinds = {bias: lambda r, s, bias=bias: planted(bias, r, s) for bias in ("tied", "rank:2", "c h")}
    for kind, make in kinds.items():
        better = 0
        for repetition in range(asked.repetitions):
            study = make(repetition, asked.seeds)
            taken = study.choice.label if study.choice else "none, for networks failed"
            better += taken != "tied"
            means = ", ".join(f"{row.label} {row.error.mean:.3f}" for row in study.rows)
            print(f"{kind} {repetition}: takes {taken}. {verdict(study)} [{means}]", flush=True)
        print(f"{kind}: {better} of {asked.repetitions} take another tying than tied", flush=True)


if __name__ == "__main__":
    sys.exit(main())
