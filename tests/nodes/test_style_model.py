"""T2I-Adapter's style models against the formula, on small random files."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from diffusion.files import ALLOW
from diffusion.guidance import Conditional
from diffusion.session import open_session
from diffusion.text import token_indices
from diffusion.vision import ClipVisionOutput
from graph_engine.errors import NodeError
from nodes.conditioning import ConditioningConcat
from nodes.style_model import StyleModelApply, StyleModelLoader

WIDTH, TEXT, TOKENS, LAYERS, HEADS, SIGMA = 64, 32, 8, 3, 8, 3.0


def weights(seed=0):
    shapes = {"style_embedding": (1, TOKENS, WIDTH), "proj": (WIDTH, TEXT)}
    norms = ["ln_pre", "ln_post"]
    for i in range(LAYERS):
        layer = f"transformer_layes.{i}"
        norms += [f"{layer}.ln_1", f"{layer}.ln_2"]
        shapes |= {f"{layer}.attn.in_proj_weight": (3 * WIDTH, WIDTH), f"{layer}.attn.in_proj_bias": (3 * WIDTH,)}
        for name, (out, into) in {"attn.out_proj": (1, 1), "mlp.c_fc": (4, 1), "mlp.c_proj": (1, 4)}.items():
            shapes |= {f"{layer}.{name}.weight": (out * WIDTH, into * WIDTH), f"{layer}.{name}.bias": (out * WIDTH,)}
    shapes |= {f"{norm}.{kind}": (WIDTH,) for norm in norms for kind in ("weight", "bias")}
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * (0.1 if len(shape) == 2 else 1) for name, shape in shapes.items()}


def by_formula(w, states):
    """Learned tokens after the states, through a transformer with a norm before each part; the tokens, normalised and projected."""

    def norm(x, name):
        return F.layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"])

    x = norm(torch.cat([states, w["style_embedding"].repeat(len(states), 1, 1)], 1), "ln_pre")
    for i in range(LAYERS):
        layer = f"transformer_layes.{i}"
        qkv = norm(x, f"{layer}.ln_1") @ w[f"{layer}.attn.in_proj_weight"].T + w[f"{layer}.attn.in_proj_bias"]
        q, k, v = (each.unflatten(-1, (HEADS, -1)).transpose(1, 2) for each in qkv.chunk(3, -1))
        seen = ((q @ k.mT) * (WIDTH // HEADS) ** -0.5).softmax(-1) @ v
        x = x + seen.transpose(1, 2).flatten(2) @ w[f"{layer}.attn.out_proj.weight"].T + w[f"{layer}.attn.out_proj.bias"]
        h = norm(x, f"{layer}.ln_2") @ w[f"{layer}.mlp.c_fc.weight"].T + w[f"{layer}.mlp.c_fc.bias"]
        x = x + (h * torch.sigmoid(1.702 * h)) @ w[f"{layer}.mlp.c_proj.weight"].T + w[f"{layer}.mlp.c_proj.bias"]
    return norm(x[:, -TOKENS:], "ln_post") @ w["proj"]


@pytest.fixture
def place(folders):
    place = folders.base / "models" / "style_models"
    place.mkdir(parents=True)
    save_file(weights(), place / "style.safetensors")
    return place


@pytest.fixture
def style(ctx, place):
    return StyleModelLoader(style_model_name="style.safetensors").run(ctx)


@pytest.fixture
def seen():
    """What a picture encoder says of two pictures; only the last states are read."""
    states = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(1))
    return ClipVisionOutput(torch.full((2, 24), torch.nan), torch.full_like(states, torch.nan), states)


def apply(ctx, conditioning, style, seen, **how):
    return StyleModelApply(conditioning=conditioning, style_model=style, clip_vision_output=seen, **how).run(ctx)


def denoise(model, device, conditioning):
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)) * SIGMA
    with open_session(model, Conditional(conditioning), device) as net, torch.no_grad():
        return net.denoise(x, SIGMA)


@pytest.mark.parametrize("strength", [1.0, 0.25, 0.0])
def test_the_tokens_of_all_pictures_follow_the_text(strength, ctx, style, seen, red):
    assert (style.reads, style.text, style.tokens) == (WIDTH, TEXT, TOKENS)
    out = apply(ctx, red, style, seen, strength=strength)
    before, after = red.entries[0], out.entries[0]
    length = before.embeds.shape[1]
    assert after.embeds.shape == (1, length + 2 * TOKENS, TEXT)
    assert torch.equal(after.embeds[:, :length], before.embeds)
    expected = by_formula(weights(), seen.last).reshape(1, 2 * TOKENS, TEXT) * strength
    torch.testing.assert_close(after.embeds[:, length:], expected, atol=1e-4, rtol=1e-4)
    assert after.pooled is before.pooled
    assert after.patches == ()


def test_words_are_still_found(ctx, style, seen, red, blue):
    out = apply(ctx, red, style, seen)
    (tokens,) = out.entries[0].tokens
    assert len(tokens) == out.entries[0].embeds.shape[1]
    assert token_indices(tokens, "cat") == token_indices(red.entries[0].tokens[0], "cat")
    (joined,) = ConditioningConcat(conditioning_to=out, conditioning_from=blue).run(ctx).entries[0].tokens
    assert token_indices(joined, "dog")[0] == len(tokens) + token_indices(blue.entries[0].tokens[0], "dog")[0]


def test_an_attention_of_two_is_the_tokens_twice_and_of_none_no_tokens(ctx, style, seen, red, model, device):
    def prediction(times, **how):
        conditioning = red
        for _ in range(times):
            conditioning = apply(ctx, conditioning, style, seen, **how)
        return denoise(model, device, conditioning)

    once, twice, none = prediction(1), prediction(2), prediction(0)
    assert (once - none).abs().max() > 1e-2
    assert (twice - once).abs().max() > 1e-3
    assert torch.equal(prediction(1, strength_type="attn_bias"), once)
    torch.testing.assert_close(prediction(1, strength=2.0, strength_type="attn_bias"), twice, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(prediction(1, strength=0.0, strength_type="attn_bias"), none, atol=1e-4, rtol=1e-4)


def test_every_entry_gets_them(ctx, style, seen, red, blue):
    both = type(red)((*red.entries, *blue.entries))
    tails = [entry.embeds[:, -2 * TOKENS :] for entry in apply(ctx, both, style, seen)]
    assert len(tails) == 2
    assert torch.equal(*tails)


def test_states_or_text_of_another_width_are_refused(ctx, style, seen, red):
    other = ClipVisionOutput(seen.embeds, seen.penultimate, seen.last[..., :32])
    with pytest.raises(NodeError, match="clip_vision_output: states of width 64 are wanted, 32 given"):
        apply(ctx, red, style, other)
    wide = type(red)(tuple(type(e)(torch.zeros(1, 12, 48)) for e in red))
    with pytest.raises(NodeError, match="style_model: its tokens have width 32, the conditioning's 48"):
        apply(ctx, wide, style, seen)


def drop(*names):
    return {name: tensor for name, tensor in weights().items() if name not in names}


WRONG = {
    "another": ({"a": torch.ones(1)}, r"a style model is wanted .* its 1 tensors are not known"),
    "for Flux": ({"redux_down.weight": torch.ones(1)}, "Redux style model for Flux, which is not supported"),
    "lacks": (
        drop("ln_post.bias", "transformer_layes.1.ln_1.weight", "transformer_layes.2.mlp.c_fc.bias"),
        "3 weights do not fit .*missing",
    ),
    "lacks its tokens": (drop("style_embedding"), "style_embedding is missing in this style model"),
    "odd": ({**weights(), "style_embedding": torch.ones(1, 8, 60)}, "a width that 8 divides is wanted, 60 found"),
    "flat": ({**weights(), "proj": torch.ones(8)}, r"proj \[width, text\] are wanted"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_another_file_is_refused_by_name(kind, ctx, place):
    tensors, message = WRONG[kind]
    save_file(tensors, place / "other.safetensors")
    with pytest.raises(NodeError, match=r"style_model_name: .*other\.safetensors: .*" + message):
        StyleModelLoader(style_model_name="other.safetensors").run(ctx)


def test_pickled_files_are_read_only_where_allowed(ctx, place, seen, red, style, monkeypatch):
    torch.save(weights(), place / "style.pth")
    monkeypatch.delenv(ALLOW, raising=False)
    with pytest.raises(NodeError, match=r"style_model_name: style\.pth: .*--allow-pickle"):
        StyleModelLoader(style_model_name="style.pth").run(ctx)
    monkeypatch.setenv(ALLOW, "1")
    pickled = apply(ctx, red, StyleModelLoader(style_model_name="style.pth").run(ctx), seen)
    assert torch.equal(pickled.entries[0].embeds, apply(ctx, red, style, seen).entries[0].embeds)
