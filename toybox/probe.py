"""The probe: a small network that says what a toybox picture shows, so that an edit can be judged by a number.

It looks at nine places, the world's nine positions, with the same eyes: is there an object, and of what shape, colour,
size and style? A second head sees the picture as a whole: its background and its finish. Counting and ordering objects
follow by arithmetic on the nine chances, so no head has to learn them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toybox import WEIGHTS
from toybox.draw import CELL, FINISHES, RADIUS, SIDE
from toybox.palette import COLORS
from toybox.reading import Guess, ObjectReading, Reading
from toybox.shapes import HELD_OUT_SHAPES, SHAPES, SUBJECTS
from toybox.textures import HELD_OUT_TEXTURES, TEXTURES

CELLS = tuple(sorted(CELL, key=lambda name: (CELL[name][1], CELL[name][0])))  # reading order
COUNTS = ("0", "1", "2", "3 or more")
OBJECT_LABELS: dict[str, tuple[str, ...]] = {
    "shape": SHAPES + HELD_OUT_SHAPES + SUBJECTS,
    "color": (*COLORS, "several"),  # a subject's
    "size": tuple(RADIUS),
    "style": ("flat", "outlined"),
}
PICTURE_LABELS: dict[str, tuple[str, ...]] = {
    "background_color": tuple(COLORS),
    "texture": TEXTURES + HELD_OUT_TEXTURES,
    "finish": FINISHES,
}
LABELS = OBJECT_LABELS | {"position": CELLS, "count": COUNTS, "subject": SUBJECTS} | PICTURE_LABELS
WINDOW = 7  # samples a side of what a place looks at
REACH = 28.0  # pixels from a place's centre to its outermost samples


class Block(nn.Module):
    """Two convolutions round which the input is carried."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.norm1, self.norm2 = nn.GroupNorm(8, channels), nn.GroupNorm(8, channels)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.first(x)))
        return F.relu(x + self.norm2(self.second(h)))


class ProbeNet(nn.Module):
    """Pictures (b, 3, 128, 128) in -1..1 to logits: (b, 9, labels) for object attributes, (b, labels) for the picture's."""

    def __init__(self, channels: tuple[int, int] = (48, 96), width: int = 128) -> None:
        super().__init__()
        c1, c2 = channels
        self.config = {"channels": list(channels), "width": width}
        self.trunk = nn.Sequential(
            nn.Conv2d(3, c1, 7, 4, 3, bias=False), nn.GroupNorm(8, c1), nn.ReLU(),
            nn.Conv2d(c1, c2, 3, 2, 1, bias=False), nn.GroupNorm(8, c2), nn.ReLU(),
            Block(c2), Block(c2),
        )  # fmt: skip
        self.narrow = nn.Conv2d(c2, 32, 1)
        self.look = nn.Sequential(nn.Linear(32 * WINDOW**2, width), nn.LayerNorm(width), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv2d(c2, width, 1), nn.ReLU())
        self.whole = nn.Sequential(nn.Linear(2 * width, width), nn.LayerNorm(width), nn.ReLU())
        self.presence = nn.Linear(width, 1)
        self.of_object = nn.ModuleDict({name: nn.Linear(width, len(labels)) for name, labels in OBJECT_LABELS.items()})
        self.of_picture = nn.ModuleDict({name: nn.Linear(width, len(labels)) for name, labels in PICTURE_LABELS.items()})
        self.register_buffer("sites", _sampling(SIDE // 8), persistent=False)

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The penultimate features: of the nine places (b, 9, width) and of the picture (b, width)."""
        h = self.trunk(x)
        seen = torch.einsum("bchw,ih,jw->bcij", self.narrow(h), self.sites, self.sites)
        seen = seen.unflatten(2, (3, WINDOW)).unflatten(4, (3, WINDOW))  # (b, c, row, i, column, j)
        places = self.look(seen.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2))
        wide = self.wide(h)
        return places, self.whole(torch.cat((wide.mean((2, 3)), wide.amax((2, 3))), 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        places, picture = self.embed(x)
        out = {"presence": self.presence(places)[..., 0]}
        out |= {name: head(places) for name, head in self.of_object.items()}
        return out | {name: head(picture) for name, head in self.of_picture.items()}


def _sampling(side: int) -> Tensor:
    """Linear interpolation of `side` feature rows at the WINDOW samples round each of the three lines of places, (3 · WINDOW, side)."""
    lines = sorted({y for _, y in CELL.values()})
    at = torch.cat([torch.linspace(-REACH, REACH, WINDOW) + line for line in lines]) / (SIDE / side) - 0.5
    return (1 - (at[:, None] - torch.arange(side)).abs()).clamp(min=0)


class Probe:
    """The trained network with its reading of pictures [b, h, w, 3] in 0..1; other sizes than 128 x 128 are resampled."""

    def __init__(self, net: ProbeNet) -> None:
        self.net = net.eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: str | Path = WEIGHTS / "probe", device: str | torch.device = "cpu") -> Self:
        """The shipped probe, computing in float32. FileNotFoundError where there are no weights."""
        from safetensors.torch import load_file

        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"no probe in {folder}: train one with `python -m toybox.train_probe`")
        config = json.loads((folder / "config.json").read_text())
        if config["labels"] != {name: list(labels) for name, labels in LABELS.items()}:
            raise ValueError(f"the probe in {folder} was trained for other labels than this world's: train it again")
        net = ProbeNet(tuple(config["channels"]), config["width"])
        net.load_state_dict({name: value.float() for name, value in load_file(folder / "model.safetensors").items()})
        return cls(net.to(device))

    def save(self, folder: str | Path) -> None:
        """Write float16 weights and the configuration."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.half().contiguous() for name, value in self.net.state_dict().items()}, folder / "model.safetensors")
        config = self.net.config | {"labels": {name: list(labels) for name, labels in LABELS.items()}}
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")

    def read(self, images: Tensor) -> list[Reading]:
        """What each picture shows."""
        chances = {name: p.cpu() for name, p in self._chances(images).items()}
        best = {name: p.max(-1) for name, p in chances.items() if name != "presence"}
        counts = _order(chances["presence"])[1]

        def guess(name: str, *at: int) -> Guess:
            return Guess(LABELS[name][int(best[name].indices[at])], float(best[name].values[at]))

        out = []
        for n, presence in enumerate(chances["presence"].tolist()):
            there = [cell for cell, p in enumerate(presence) if p > 0.5]
            objects = tuple(
                ObjectReading(**{name: guess(name, n, c) for name in OBJECT_LABELS}, position=Guess(CELLS[c], presence[c])) for c in there
            )
            count = min(len(there), len(COUNTS) - 1)
            whole = {name: guess(name, n) for name in PICTURE_LABELS}
            out.append(Reading(objects, Guess(COUNTS[count], float(counts[n, count])), **whole))
        return out

    def probabilities(self, images: Tensor) -> dict[str, Tensor]:
        """Chances by attribute, labels as in LABELS: (b, labels) for count, background_color, texture and finish;
        (b, 2, labels) for shape, color, size, style and position of the first and second object in reading order, summing
        to the chance that there is such an object; (b, 2) that each of the subjects is somewhere in the picture."""
        chances = self._chances(images)
        position, count = _order(chances["presence"])
        out = {"position": position, "count": count} | {name: chances[name] for name in PICTURE_LABELS}
        out |= {name: position @ chances[name] for name in OBJECT_LABELS}
        of_subject = chances["presence"][..., None] * chances["shape"][..., -len(SUBJECTS) :]
        return out | {"subject": 1 - (1 - of_subject).prod(1)}

    def features(self, images: Tensor) -> Tensor:
        """Unit vectors (b, 2 · width) of what is in the pictures, background and objects in equal parts, for cosine similarity."""
        places, picture = self.net.embed(self._input(images))
        presence = self.net.presence(places).sigmoid()
        objects = (places * presence).sum(1) / presence.sum(1).clamp(min=1e-3)
        return F.normalize(torch.cat((F.normalize(objects, dim=1), F.normalize(picture, dim=1)), 1), dim=1)

    def _input(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"the probe reads pictures [b, h, w, 3], not {list(images.shape)}")
        weight = next(self.net.parameters())
        x = images.permute(0, 3, 1, 2).to(weight)
        if x.shape[2:] != (SIDE, SIDE):
            x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
        return x.clamp(0, 1) * 2 - 1

    def _chances(self, images: Tensor) -> dict[str, Tensor]:
        logits = self.net(self._input(images))
        return {name: value.sigmoid() if name == "presence" else value.softmax(-1) for name, value in logits.items()}


def _order(presence: Tensor) -> tuple[Tensor, Tensor]:
    """From independent chances of an object in each of nine places (b, 9): the chance that the first and the second object
    are in each place (b, 2, 9), and of 0, 1, 2, 3 or more objects (b, 4)."""
    counts = F.one_hot(torch.zeros(len(presence), dtype=torch.long, device=presence.device), len(COUNTS)).to(presence)
    positions = []
    for p in presence.unbind(1):
        positions.append(p[:, None] * counts[:, :2])  # k objects so far, and one here: this is the (k + 1)th
        up = F.pad(counts[:, :-1], (1, 0))
        stay = counts * (1 - p[:, None])
        stay[:, -1] = counts[:, -1]
        counts = stay + up * p[:, None]
    return torch.stack(positions, 2), counts
