"""Train the probe on renders, blurred, noisy, shifted and passed through the autoencoder: `python -m toybox.train_probe`."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from toybox import WEIGHTS
from toybox.draw import FINISHES, RADIUS, SIDE, jitter_of, place
from toybox.optim import MuonAdamW
from toybox.probe import CELLS, OBJECT_LABELS, PICTURE_LABELS, Probe, ProbeNet
from toybox.reading import ATTRIBUTES
from toybox.run import Run
from toybox.scenes import HELD_OUT_SHAPES, MARGIN, SHAPES, STYLES, SUBJECTS, Scene, render, sample
from toybox.vae import HELD_OUT_SEED

FIRST_SEED = 5_000_000  # the probe's own pictures, apart from those that the generator learns from
IGNORED = -100
BATCH = 64


@dataclass(frozen=True, slots=True)
class Example:
    """A picture to learn from: a scene, or one of its background alone, or one with a third object."""

    scene: Scene
    empty: bool = False
    third: Scene | None = None  # the same background and seed with one more object

    @classmethod
    def by_lot(cls, seed: int) -> Example:
        """Scenes as the world has them, more of what is rare or held out, and numbers of objects that only mistakes have."""
        lot = random.Random(f"toybox probe {seed}")
        kind = lot.random()
        if kind < 0.06:
            scene = sample(seed, 2)
            return cls(scene, third=_third(scene, lot))
        pins: dict[str, str | tuple[str | None, ...]] = {}
        if lot.random() < 0.15:
            pins["texture"] = "zigzag"
        if kind < 0.09:
            return cls(sample(seed, 1, **pins), empty=True)
        n = lot.choice((1, 2))
        if kind < 0.40:
            unseen = lot.choice(HELD_OUT_SHAPES + SUBJECTS)
            pins["shape"] = (unseen, None) if n == 1 or lot.random() < 0.5 else (None, unseen)
        elif kind < 0.50 and n == 2:
            same = {"shape": SHAPES + HELD_OUT_SHAPES, "style": STYLES, "size": tuple(RADIUS)}
            name = lot.choice(tuple(same))
            pins[name] = (lot.choice(same[name]),) * 2
        elif kind < 0.62:
            pins["finish"] = lot.choice((*FINISHES[1:], "posterized"))
        elif kind < 0.82:  # the hardest to see: thin lines, and dark ones on dark grounds
            pins["style"] = ("outlined",) * 2
            if lot.random() < 0.5:
                pins["size"] = ("small",) * 2
            if lot.random() < 0.4:
                pins["background_color"] = "black"
        return cls(sample(seed, n, **pins))

    def picture(self) -> Tensor:
        """(128, 128, 3) in 0..1."""
        if self.empty:
            return _background(self.scene)
        if self.third is None:
            return render([self.scene])[0][0]
        images, masks = render([self.scene, self.third])
        return torch.where(masks[1, 0, :, :, None] > 0, images[1], images[0])

    def targets(self) -> dict[str, Tensor]:
        """Presence (9), object labels (9) and picture labels (), IGNORED where there is nothing to know."""
        objects = () if self.empty else self.scene.objects + (self.third.objects if self.third else ())
        presence = torch.zeros(len(CELLS))
        out = {name: torch.full((len(CELLS),), IGNORED) for name in OBJECT_LABELS}
        for obj in objects:
            cell = CELLS.index(obj.position)
            presence[cell] = 1
            subject = obj.shape in SUBJECTS
            for name, labels in OBJECT_LABELS.items():
                out[name][cell] = labels.index("several" if subject and name == "color" else getattr(obj, name))
            if subject:
                out["style"][cell] = IGNORED
            if self.scene.finish == "sepia wash":
                out["color"][cell] = IGNORED
        ground = self.scene.background
        said = {"background_color": ground.color, "texture": ground.texture, "finish": self.scene.finish}
        out |= {name: torch.tensor(labels.index(said[name])) for name, labels in PICTURE_LABELS.items()}
        if self.scene.finish != "none":  # a wash has no colours, three levels may swallow a texture
            out["texture"] = torch.tensor(IGNORED)
            if self.scene.finish == "sepia wash":
                out["background_color"] = torch.tensor(IGNORED)
        return out | {"presence": presence}


def _background(scene: Scene) -> Tensor:
    """The scene's background alone: two pictures with the object in opposite places, each where the other has it."""
    images, masks = render([scene.replace(position=side, shape="circle") for side in ("left", "right")])
    return torch.where(masks[0, 0, :, :, None] > 0, images[1], images[0])


def _third(scene: Scene, lot: random.Random) -> Scene | None:
    """One more object on the scene's background, clear of its two; None where the lot finds no room."""
    jitter = jitter_of(scene.seed)
    others = [place(o, jitter[f"object{i}"])[:3] for i, o in enumerate(scene.objects)]
    for _ in range(30):
        (obj,) = sample(lot.randrange(2**31), 1, size="small").objects
        x, y, r = place(obj, jitter["object0"])[:3]
        if obj.color != scene.background.color and all((x - x0) ** 2 + (y - y0) ** 2 >= (r + r0 + MARGIN) ** 2 for x0, y0, r0 in others):
            return Scene((obj,), scene.background, scene.seed)
    return None


def augment(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Accidents of a picture (b, 128, 128, 3) in 0..1: a shift up to six pixels, blur, tint, contrast, noise; each in a part of them."""
    b = len(pictures)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(b, *shape, generator=generator) * (high - low) + low

    def sometimes(share: float, *shape: int) -> Tensor:
        return (torch.rand(b, *[1] * len(shape), generator=generator) < share).float()

    line = torch.arange(SIDE)
    shift = torch.randint(-6, 7, (2, b, 1), generator=generator) * (torch.rand(b, 1, generator=generator) < 0.5)
    rows, columns = ((line + s).clamp(0, SIDE - 1) for s in shift)
    x = pictures[torch.arange(b)[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    at = torch.arange(-3, 4) / uniform(0.3, 1.6, 1)
    kernel = torch.softmax(-0.5 * at.square(), 1)
    blurred = torch.randperm(b, generator=generator)[: b // 3]
    k = kernel[blurred].repeat_interleave(3, 0)[:, None]
    rows_of = F.pad(x[blurred].flatten(0, 1)[None], (3, 3, 3, 3), mode="replicate")
    soft = F.conv2d(F.conv2d(rows_of, k[:, :, None, :], groups=len(k)), k[:, :, :, None], groups=len(k))
    x = x.index_copy(0, blurred, soft[0].reshape(-1, 3, SIDE, SIDE))
    x = 0.5 + (x - 0.5) * (1 + uniform(-0.1, 0.1, 1, 1, 1)) + uniform(-0.04, 0.04, 3, 1, 1) * sometimes(0.7, 1, 1, 1)
    noisy = torch.randperm(b, generator=generator)[: b // 2]
    noise = torch.randn(x[noisy].shape, generator=generator) * uniform(0, 0.06, 1, 1, 1)[noisy]
    return x.index_add(0, noisy, noise).clamp(0, 1).permute(0, 2, 3, 1)


RoundTrip = Callable[[Tensor], Tensor]


def round_trip(folder: Path, noise: float = 0.0) -> RoundTrip:
    """Pictures to the autoencoder's latents and back; latents off by up to `noise` (of their unit variance) as a generator's are."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)

    @torch.no_grad()
    def there_and_back(pictures: Tensor) -> Tensor:
        z = vae.encode(pictures.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mode()
        amount = noise * torch.rand(len(z), 1, 1, 1, generator=generator) / vae.config.scaling_factor
        y = vae.decode(z + amount * torch.randn(z.shape, generator=generator)).sample
        return (y / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)

    return there_and_back


def training_set(run: Run, count: int, vae: Path | None) -> tuple[np.ndarray, dict[str, Tensor]]:
    """Bytes (n, 128, 128, 3) on disk and targets; with an autoencoder every second picture has been through it."""
    examples = [Example.by_lot(FIRST_SEED + i) for i in range(count)]
    targets = [e.targets() for e in examples]
    stacked = {name: torch.stack([t[name] for t in targets]) for name in targets[0]}
    mark = blake2b(f"{count} every second {examples}".encode(), digest_size=8)
    mark.update((vae / "diffusion_pytorch_model.safetensors").read_bytes() if vae else b"")
    path = run.folder / f"pictures-{mark.hexdigest()}.npy"
    if not path.exists():
        for old in run.folder.glob("pictures-*.npy"):
            old.unlink()
        through = round_trip(vae, 0.15) if vae else None
        partly = path.with_suffix(".tmp")
        pictures = np.lib.format.open_memmap(partly, "w+", np.uint8, (count, SIDE, SIDE, 3))
        for i in range(0, count, BATCH):
            x = torch.stack([e.picture() for e in examples[i : i + BATCH]])
            if through:
                x[1::2] = through(x[1::2])
            pictures[i : i + BATCH] = (x * 255).round().byte().numpy()
        pictures.flush()
        partly.rename(path)
        run.log(f"{count} pictures rendered" + (", every second one through the autoencoder" if vae else ""))
    return np.load(path, mmap_mode="r"), stacked


def loss_of(logits: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of presence and, where an object is, of its attributes, and of the picture's."""
    total = 4 * F.binary_cross_entropy_with_logits(logits["presence"], targets["presence"])
    for name in (*OBJECT_LABELS, *PICTURE_LABELS):
        total = total + F.cross_entropy(logits[name].flatten(0, -2), targets[name].flatten(), ignore_index=IGNORED)
    return total


def train(run: Run, device: str, vae: Path | None, count: int, lr: float = 3e-3, until: int | None = None) -> Probe:
    """A short warm-up and a linear decay, or only `until` a step of it; returns the average of the weights.

    Batches are a function of the step alone, so that a run resumes exactly.
    """
    torch.manual_seed(0)
    net = ProbeNet().to(device)
    optimizer = MuonAdamW(net.named_parameters(), lr, weight_decay=0.02)
    average = {name: value.clone() for name, value in net.state_dict().items()}
    if state := run.resume():
        net.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average = state["average"]
    pictures, targets = training_set(run, count, vae)
    while run.progress < 1 and run.step != until:
        lot = torch.Generator().manual_seed(run.step)
        rows = torch.randint(len(pictures), (BATCH,), generator=lot)
        x = augment(torch.from_numpy(pictures[rows.numpy()]).float() / 255, lot).to(device)
        y = {name: value[rows].to(device) for name, value in targets.items()}
        loss = loss_of(net((x * 2 - 1).permute(0, 3, 1, 2)), y)
        loss.backward()
        optimizer.step(min(1.0, (run.step + 1) / 50) * (1 - run.progress))
        run.step += 1
        keep = min(0.99, run.step / (run.step + 10))
        for name, value in net.state_dict().items():
            average[name].lerp_(value, 1 - keep)
        if run.step % 50 == 0:
            run.log(f"loss {loss.item():.4f}")
        if run.step % 500 == 0:
            run.log(_told(accuracy(_with(average), 256)))
        if run.save_due:
            run.save({"model": net.state_dict(), "optimizer": optimizer.state_dict(), "average": average})
    run.save({"model": net.state_dict(), "optimizer": optimizer.state_dict(), "average": average})
    return _with(average)


def _with(average: dict[str, Tensor]) -> Probe:
    net = ProbeNet()
    net.load_state_dict(average)
    return Probe(net)


def mixed_scenes(first: int, count: int) -> list[Scene]:
    """Scenes to judge the probe on: every third one has a held-out shape, texture or subject."""
    unseen = [*(("shape", name) for name in HELD_OUT_SHAPES + SUBJECTS), ("texture", "zigzag")]

    def scene(i: int) -> Scene:
        if i % 3:
            return sample(first + i)
        attribute, name = unseen[i // 3 % len(unseen)]
        return sample(first + i, None, **{attribute: name})

    return [scene(i) for i in range(count)]


def accuracy(probe: Probe, count: int, through: RoundTrip | None = None, first: int = HELD_OUT_SEED) -> dict[str, float]:
    """For each attribute, the share of held-out pictures in which it is read right for every object."""
    right = dict.fromkeys(ATTRIBUTES, 0)
    for i in range(0, count, BATCH):
        scenes = mixed_scenes(first + i, min(BATCH, count - i))
        images, _ = render(scenes)
        for reading, scene in zip(probe.read(through(images) if through else images), scenes, strict=True):
            for name, agrees in reading.agreement(scene).items():
                right[name] += agrees
    return {name: n / count for name, n in right.items()}


def _told(rates: dict[str, float]) -> str:
    return ", ".join(f"{name} {rate:.1%}" for name, rate in rates.items())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m toybox.train_probe", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".toybox/probe"), help="checkpoints, pictures and the log")
    parser.add_argument("--out", type=Path, default=WEIGHTS / "probe", help="where the trained weights go")
    parser.add_argument("--vae", type=Path, default=WEIGHTS / "vae", help="the trained autoencoder; renders alone where there is none")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--count", type=int, default=12_000, help="pictures in the training set")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    vae = args.vae if (args.vae / "config.json").is_file() else None
    run = Run(args.folder, "probe", minutes=0, steps=args.steps)
    if vae is None:
        run.log(f"no autoencoder in {args.vae}: training on renders alone")
    probe = train(run, args.device, vae, args.count)
    probe.save(args.out)
    final = Probe.load(args.out)
    results = {"clean": accuracy(final, 1024)} | ({"round trip": accuracy(final, 1024, round_trip(vae))} if vae else {})
    for name, rates in results.items():
        run.log(f"{name}: {_told(rates)}")
    (args.folder / "accuracy.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
