"""The ways of editing that `editing.py` compares: each builds, of a pair's handles, the graph that ends in the edited picture.

An inversion gives a trajectory, an editor patches the model that walks it back: `inverted` and `EDITORS` are combined below. Guidance is
5, as in the gates of the model, but 1 on every way up; EDICT is guided by 2 both ways and starts at 0.8, edit-friendly DDPM starts at
0.64 (0.88 beside a source), as published.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from toybox.instructions import Edit

STEPS, CFG, EDICT = 30, 5.0, 2.0
GROUND = ("background_color", "texture")
Builder = Callable[["Case"], Any]
WAYS: dict[str, Builder] = {}


@dataclass
class Case:
    """One pair as handles of a graph."""

    g: Any
    pair: Edit
    seed: int
    steps: int = STEPS
    scene: Any = None
    model: Any = None
    clip: Any = None
    vae: Any = None
    latent: Any = None
    source: Any = None
    target: Any = None
    empty: Any = None

    def __post_init__(self) -> None:
        g, changed = self.g, self.pair.after
        new = getattr(changed.background if self.pair.attribute in GROUND else changed.objects[self.pair.object],
                      self.pair.attribute.removeprefix("background_"))  # fmt: skip
        self.scene = g.ToyboxScene(
            seed=self.seed, object="first" if self.pair.object == 0 else "second", change=self.pair.attribute, change_to=new
        )
        toybox = g.CheckpointLoaderSimple(ckpt_name="toybox")
        self.model, self.clip, self.vae = toybox.model, toybox.clip, toybox.vae
        self.latent = g.VAEEncode(pixels=self.scene.image, vae=self.vae)
        self.source, self.target = (self.told(text) for text in (self.scene.caption, self.scene.target_caption))
        self.empty = self.told("")

    def told(self, text: Any) -> Any:
        return self.g.CLIPTextEncode(text=text, clip=self.clip)

    def sampled(self, **changes: Any) -> Any:
        """KSampler with the target prompt, and what is changed of it."""
        given = {
            "model": self.model, "positive": self.target, "negative": self.empty, "latent_image": self.latent, "seed": self.seed,
            "steps": self.steps, "cfg": CFG, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
        }  # fmt: skip
        return self.g.KSampler(**given | changes)

    def decoded(self, latent: Any) -> Any:
        return self.g.VAEDecode(samples=latent, vae=self.vae)

    def found(self) -> Any:
        """DiffEdit's mask."""
        return self.g.NoiseContrastMask(model=self.model, samples=self.latent, target=self.target, source=self.source, seed=self.seed).mask

    def words(self) -> dict[str, str]:
        """By which words Local Blend finds what changes."""
        if self.pair.attribute in GROUND:
            return {"source_words": "background", "target_words": "background"}
        before, after = (scene.objects[self.pair.object].shape for scene in (self.pair.before, self.pair.after))
        return {"source_words": before, "target_words": after}


def way(name: str) -> Callable[[Builder], Builder]:
    """Register a way of editing under the name of its row."""

    def keep(builder: Builder) -> Builder:
        WAYS[name] = builder
        return builder

    return keep


@way("source")
def source(c: Case) -> Any:
    return c.scene.image


@way("autoencoder alone")
def autoencoder(c: Case) -> Any:
    return c.decoded(c.latent)


@way("regenerate")
def regenerate(c: Case) -> Any:
    return c.decoded(c.sampled(latent_image=c.g.EmptyLatentImage(width=128, height=128, batch_size=1)))


@way("image to image 0.6")
def image_to_image(c: Case) -> Any:
    return c.decoded(c.sampled(denoise=0.6))


def sdedit(c: Case, **mask: Any) -> Any:
    return c.decoded(
        c.g.SDEdit(
            model=c.model, positive=c.target, negative=c.empty, guide=c.latent, level=0.6, seed=c.seed, cfg=CFG, steps=c.steps, **mask
        ).latent
    )


WAYS["SDEdit 0.6"] = sdedit


@way("SDEdit 0.6, DiffEdit's mask")
def sdedit_masked(c: Case) -> Any:
    return sdedit(c, mask=c.found())


@way("SDEdit 0.6, sparse (SIGE)")
def sparse(c: Case) -> Any:
    """The ODE from level 0.6 under the target prompt, computed within DiffEdit's mask; elsewhere that under the source prompt is kept."""
    sigmas = c.g.BasicScheduler(model=c.model, scheduler="normal", steps=c.steps, denoise=0.6)
    run = {
        "noise": c.g.RandomNoise(noise_seed=c.seed), "sampler": c.g.KSamplerSelect(sampler_name="euler"),
        "sigmas": sigmas, "latent_image": c.latent,
    }  # fmt: skip
    kept = c.g.SparseCache(guider=c.g.CFGGuider(model=c.model, positive=c.source, negative=c.empty, cfg=CFG), **run)
    model = c.g.SparseEdit(model=c.model, cache=kept.outputs[1], mask=c.found()).outputs[0]
    guider = c.g.CFGGuider(model=model, positive=c.target, negative=c.empty, cfg=CFG)
    return c.decoded(c.g.SamplerCustomAdvanced(guider=guider, **run).output)


@way("image to image, true mask")
def masked(c: Case) -> Any:
    masked = c.g.SetLatentNoiseMask(samples=c.latent, mask=c.scene.edit_mask)
    return c.g.PasteBack(image=c.decoded(c.sampled(latent_image=masked)), source=c.scene.image, mask=c.scene.edit_mask)


@way("DiffEdit")
def diffedit(c: Case) -> Any:
    path = c.g.DiffEditEncode(model=c.model, samples=c.latent, prompt=c.empty, steps=c.steps, scheduler="normal")
    return c.decoded(
        c.g.MaskedDDIMDecode(model=c.model, trajectory=path, positive=c.target, negative=c.empty, cfg=CFG, ratio=0.8, mask=c.found()).latent
    )


@way("DDIB, unguided")
def ddib(c: Case) -> Any:
    bridge = c.g.DualBridge(
        model_a=c.model, model_b=c.model, positive_a=c.source, positive_b=c.target, latent=c.latent, steps=c.steps, refine=1
    )
    return c.decoded(bridge.latent)


# every inversion with every editor


def inverted(c: Case, name: str) -> Any:
    """The trajectory of the picture under its caption."""
    common = {"model": c.model, "samples": c.latent, "positive": c.source, "negative": c.empty, "steps": c.steps}
    if name == "EDICT":
        return c.g.EDICTInversion(**common, cfg=EDICT).trajectory
    if name == "edit-friendly":
        return c.g.EditFriendlyInversion(**common, cfg=1.0, seed=c.seed).trajectory
    path = c.g.DDIMInversion(**common, iterations=3 if name == "fixed-point" else 0).trajectory
    if name == "negative-prompt":
        return c.g.NegativePromptInversion(trajectory=path, positive=c.source).trajectory
    if name == "null-text":
        return c.g.NullTextInversion(model=c.model, trajectory=path, positive=c.source, negative=c.empty, cfg=CFG).trajectory
    return path


def p2p(c: Case, model: Any, both: Any, *, blend: bool = False) -> Any:
    aligned = c.g.AlignPrompts(positive=both.positive, mode="replace")
    model = c.g.PromptToPrompt(model=model, alignment=aligned, cross_replace=0.8, self_replace=0.4)
    return c.g.LocalBlend(model=model, alignment=aligned, **c.words()) if blend else model


def masactrl(c: Case, model: Any, both: Any) -> Any:
    return c.g.MasaCtrl(model=model, step=0, layer=-7)


def plug_and_play(c: Case, model: Any, both: Any) -> Any:
    return c.g.PlugAndPlay(model=model, layer=1, features_until=0.4, attention_from=0, attention_until=0.4)


def pix2pix_zero(c: Case, model: Any, both: Any) -> Any:
    return c.g.CrossAttentionGuidance(model=model, amount=0.1)


EDITORS = {
    "P2P": p2p,
    "P2P + blend": partial(p2p, blend=True),
    "MasaCtrl": masactrl,
    "Plug-and-Play": plug_and_play,
    "pix2pix-zero": pix2pix_zero,
}
MEET = {
    "P2P": ("DDIM", "fixed-point", "negative-prompt", "null-text", "direct", "EDICT", "edit-friendly"),
    "P2P + blend": ("DDIM", "fixed-point", "negative-prompt", "null-text", "direct", "EDICT", "edit-friendly"),
    "MasaCtrl": ("DDIM", "direct"),
    "Plug-and-Play": ("DDIM", "direct"),
    "pix2pix-zero": ("DDIM", "direct"),
}


def walked_back(c: Case, name: str, editor: str | None) -> Any:
    """The picture's trajectory walked down under the target prompt; with an editor beside the source, under its own prompt."""
    path, model, positive = inverted(c, name), c.model, c.target
    if editor:
        wanted = c.target
        if editor == "pix2pix-zero":
            ends = {"source": c.scene.caption, "target": c.scene.target_caption}
            wanted = c.g.EditDirection(conditioning=c.source, clip=c.clip, **ends)
        both = c.g.SourceAndTarget(samples=c.latent, source=c.source, target=wanted)
        if name in ("direct", "edit-friendly"):  # with the target's guidance the stored noise does not lead the source back
            model = c.g.DirectInversion(model=model, trajectory=path).model
        model, positive = EDITORS[editor](c, model, both), both.positive
    given = {"model": model, "trajectory": path, "positive": positive, "negative": c.empty}
    if name == "EDICT":
        back = c.g.EDICTDecode(**given, cfg=EDICT, start=0.8)
    else:
        start = {None: 0.64}.get(editor, 0.88) if name == "edit-friendly" else 1.0
        back = c.g.ReplayTrajectory(**given, cfg=CFG, start=start)
    pictures = c.decoded(back.latent)
    return c.g.ImageFromBatch(image=pictures, batch_index=1, length=1) if editor else pictures


for _name in ("DDIM", "fixed-point", "negative-prompt", "null-text", "EDICT", "edit-friendly"):
    WAYS[f"target prompt, {_name}"] = partial(walked_back, name=_name, editor=None)
for _editor, _names in MEET.items():
    for _name in _names:
        WAYS[f"{_editor}, {_name}"] = partial(walked_back, name=_name, editor=_editor)


@way("Imagic")
def imagic(c: Case) -> Any:
    """60 + 60 training steps, η = 1."""
    told = c.g.OptimizeEmbedding(model=c.model, latent=c.latent, conditioning=c.target, steps=60, learning_rate=0.003, seed=c.seed)
    tuned = c.g.FinetuneOnImage(model=c.model, latent=c.latent, conditioning=told.conditioning, steps=60, learning_rate=0.002, seed=c.seed)
    wanted = c.g.InterpolateEmbeddings(target=c.target, optimised=told.conditioning, last=1.0, count=1).outputs[0]
    canvas = c.g.EmptyLatentImage(width=128, height=128, batch_size=1)
    return c.decoded(c.sampled(model=tuned.outputs[0], positive=wanted, latent_image=canvas, cfg=2.0))


@way("InstructPix2Pix")
def instruct(c: Case) -> Any:
    seeing = c.g.UNETLoader(unet_name="toybox_instruct")
    guided = c.g.InstructPix2PixGuider(
        model=seeing, instruction=c.told(c.pair.text), nothing=c.empty, vae=c.vae, pixels=c.scene.image, text_scale=3.0, image_scale=1.5
    )
    return c.decoded(
        c.g.SamplerCustomAdvanced(
            noise=c.g.RandomNoise(noise_seed=c.seed), guider=guided.guider, sampler=c.g.KSamplerSelect(sampler_name="euler"),
            sigmas=c.g.BasicScheduler(model=c.model, scheduler="normal", steps=c.steps, denoise=1.0), latent_image=guided.latent,
        ).output
    )  # fmt: skip
