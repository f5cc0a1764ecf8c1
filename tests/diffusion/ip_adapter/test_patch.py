"""Pictures as prompts against diffusers' own IP-Adapter on the same U-Net and the same file."""

import pickle
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from diffusion.conditioning import set_area
from diffusion.family.unet import sites
from diffusion.guidance import CFG, Conditional
from diffusion.ip_adapter.embed import tokens
from diffusion.ip_adapter.file import open_ip_adapter
from diffusion.ip_adapter.patch import ImagePrompt, key_numbers, scaled
from diffusion.lora.apply import apply_lora
from diffusion.lora.file import parse_lora
from diffusion.patch import AttentionPatch, FeaturePatch
from diffusion.session import open_session

SIGMA, SIZE = 2.5, 16


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def embedding(kind: str, pictures: int = 1, seed: int = 5) -> torch.Tensor:
    return noise(seed, pictures, 24) if kind == "plain" else noise(seed, pictures, 10, 24)


class Watch(FeaturePatch):
    """Keeps what the network was asked."""

    def residuals(self, call):
        self.call = call


@pytest.fixture
def setting(opened, prompts, device):
    """Runs a model with patches; gives the predictions, and if asked what the network was told and a copy of it as it was then."""

    def run(name: str, *patches, x: torch.Tensor | None = None, guidance=None, copied: bool = False):
        model, watch = opened[name][0], Watch()
        x = noise(1, 2, 4, SIZE, SIZE) * SIGMA if x is None else x
        guidance = guidance or CFG(*prompts[name], 3.0)
        with open_session(model.patched(*patches, watch), guidance, device) as net, torch.no_grad():
            _, preds = net.denoise_all(x, SIGMA)
            if not copied:
                return preds
            other = UNet2DConditionModel.from_config(net.unet.config)
            other.load_state_dict(net.unet.state_dict())
        return preds, watch.call, other

    return run


def parts_of(path) -> dict[str, dict[str, torch.Tensor]]:
    parts = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in load_file(path).items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    return parts


def reference(unet, call, x, files, embeds, weights, against=None) -> dict[str, torch.Tensor]:
    """The denoised estimates of diffusers' U-Net with its own adapters; negative rows get zeros."""
    unet._load_ip_adapter_weights([parts_of(file) for file in files], low_cpu_mem_usage=False)
    for module in unet.attn_processors.values():
        if hasattr(module, "scale"):
            module.scale = list(weights)
    images = []
    for i, each in enumerate(embeds):
        rows = torch.empty(len(call.x), *each.shape)
        for branch, begin, end in call.rows.branches:
            rows[begin:end] = each if branch == "positive" else (torch.zeros_like(each) if against is None else against[i])
        images.append(rows)
    t = torch.full((len(call.x),), float(call.step.t))
    with torch.no_grad():
        raw = unet(call.x, t, encoder_hidden_states=call.context, added_cond_kwargs={**call.added, "image_embeds": images}).sample
    return {branch: x - SIGMA * raw[begin:end] for branch, begin, end in call.rows.branches}


def prompt(file, embeds, device, weight=1.0, **more) -> ImagePrompt:
    adapter = open_ip_adapter(file)
    return ImagePrompt(adapter, tokens(adapter, embeds, device), tokens(adapter, torch.zeros_like(embeds), device), weight, **more)


def assert_close(got, wanted):
    for branch, value in wanted.items():
        torch.testing.assert_close(got[branch], value, rtol=0, atol=1e-5 * value.abs().max().item())


@pytest.mark.parametrize("kind", ["plain", "plus", "full"])
@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_the_network_says_what_diffusers_says_with_the_same_file(setting, adapter_file, device, name, kind):
    x, file, embeds = noise(1, 2, 4, SIZE, SIZE) * SIGMA, adapter_file(name, kind), embedding(kind)
    plain = setting(name, x=x)
    preds, call, unet = setting(name, prompt(file, embeds, device, 0.7), x=x, copied=True)
    assert {branch for branch, _, _ in call.rows.branches} == {"positive", "negative"}
    wanted = reference(unet, call, x, [file], [embeds], [0.7])
    assert_close(preds, wanted)
    assert all((preds[branch] - plain[branch]).abs().max() > 1e-2 for branch in preds)  # the adapter does something


def test_several_pictures_are_seen_side_by_side(setting, adapter_file, device):
    x, file, embeds = noise(1, 2, 4, SIZE, SIZE) * SIGMA, adapter_file("sd1", "plain"), embedding("plain", 3)
    preds, call, unet = setting("sd1", prompt(file, embeds, device), x=x, copied=True)
    assert_close(preds, reference(unet, call, x, [file], [embeds], [1.0]))


def test_two_adapters_add_up_in_any_order(setting, adapter_file, device):
    x = noise(1, 2, 4, SIZE, SIZE) * SIGMA
    files = [adapter_file("sd1", "plain"), adapter_file("sd1", "plus", 1)]
    embeds = [embedding("plain"), embedding("plus", 2, 6)]
    one, two = (prompt(f, e, device, w) for f, e, w in zip(files, embeds, (0.4, -0.8), strict=True))
    preds, call, unet = setting("sd1", one, two, x=x, copied=True)
    assert_close(preds, reference(unet, call, x, files, embeds, [0.4, -0.8]))
    assert_close(setting("sd1", two, one, x=x), preds)
    twice = setting("sd1", one, replace(one), x=x)
    double = setting("sd1", prompt(files[0], embeds[0], device, 0.8), x=x)
    assert_close(twice, double)  # one file twice


def test_with_a_lora_it_is_diffusers_with_the_changed_weights(setting, opened, checkpoints, make_lora, adapter_file, device):
    lora = parse_lora(make_lora.kohya(make_lora.make(make_lora.shapes_in(checkpoints["sd1"]))), "lora")
    patched, _, _ = apply_lora(lora, opened["sd1"][0], None, 0.8, 0.0, device)
    x, file, embeds = noise(1, 2, 4, SIZE, SIZE) * SIGMA, adapter_file("sd1", "plain"), embedding("plain")
    image = prompt(file, embeds, device)
    preds, call, unet = setting("sd1", *patched.patches, image, x=x, copied=True)
    assert_close(preds, reference(unet, call, x, [file], [embeds], [1.0]))
    without = setting("sd1", image, x=x)
    assert (preds["positive"] - without["positive"]).abs().max() > 1e-2
    other = setting("sd1", image, *patched.patches, x=x)
    assert all(torch.equal(other[branch], preds[branch]) for branch in preds)
    plain, again = setting("sd1", x=x), setting("sd1", image, x=x)
    assert all(torch.equal(again[branch], without[branch]) for branch in preds)
    assert (plain["positive"] - without["positive"]).abs().max() > 1e-2


class Bias(AttentionPatch):
    """Looks more at the first word."""

    def at_site(self, site):
        return site.cross

    def __call__(self, call, next):
        bias = torch.zeros(call.k.shape[2])
        bias[1] = 2.0
        return next(call.add_bias(bias))


def test_with_another_attention_patch_it_still_adds_the_same(setting, adapter_file, device):
    image = prompt(adapter_file("sd1", "plain"), embedding("plain"), device)
    seen = {}

    class Note(AttentionPatch):
        def __init__(self, name):
            self.name = name

        def at_site(self, site):
            return site.cross and site.index == 1

        def __call__(self, call, next):
            seen[self.name] = next(call)
            return seen[self.name]

    for order, patches in (("inside", (Bias(), Note("a"), image, Note("b"))), ("outside", (Note("a"), image, Note("b"), Bias()))):
        setting("sd1", *patches)
        seen[order] = seen["b"] - seen["a"]
    torch.testing.assert_close(seen["inside"], seen["outside"], rtol=0, atol=1e-5)
    both, bias, alone = (setting("sd1", *patches)["positive"] for patches in ((Bias(), image), (Bias(),), (image,)))
    assert (both - bias).abs().max() > 1e-2
    assert (both - alone).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_weight_0_is_bit_equal_to_none_and_the_session_unwinds(setting, adapter_file, device, name):
    file, embeds = adapter_file(name, "plain"), embedding("plain")
    plain = setting(name)
    none = setting(name, prompt(file, embeds, device, 0.0))
    setting(name, prompt(file, embeds, device))
    after = setting(name)
    for branch in plain:
        assert torch.equal(plain[branch], none[branch])
        assert torch.equal(plain[branch], after[branch])


def test_it_holds_from_and_to_a_noise_level(opened, prompts, setting, adapter_file, device):
    file, embeds = adapter_file("sd1", "plain"), embedding("plain")
    model, x = opened["sd1"][0], noise(1, 1, 4, SIZE, SIZE)
    table = model.process.table()
    sigmas = [table.percent_to_sigma(p) for p in (0.1, 0.3, 0.5, 0.9)]

    def run(*patches):
        with open_session(model.patched(*patches), Conditional(prompts["sd1"][0]), device) as net, torch.no_grad():
            return [net.denoise(x * sigma, sigma) for sigma in sigmas]

    plain, within, always = (run(*p) for p in ((), (prompt(file, embeds, device, start=0.2, end=0.6),), (prompt(file, embeds, device),)))
    equal = [[torch.equal(a, b) for a, b in zip(within, others, strict=True)] for others in (plain, always)]
    assert equal == [[True, False, False, True], [False, True, True, False]]


def test_precise_style_shows_the_composition_to_the_negative(setting, adapter_file, device):
    file, embeds = adapter_file("sdxl", "plain"), embedding("plain")
    noted = {}

    class Note(AttentionPatch):
        def __init__(self, name):
            self.name = name

        def at_site(self, site):
            return site.cross and site.place == "down" and site.block == 2

        def __call__(self, call, next):
            noted[self.name] = out = next(call)
            noted["rows"] = call.rows
            return out

    added = {}
    for kind in ("composition", "style transfer precise"):
        setting("sdxl", Note("before"), prompt(file, embeds, device, kind=kind), Note("after"))
        rows = noted["rows"]
        added[kind] = {name: (noted["after"] - noted["before"])[rows[name]].abs().max() for name in ("positive", "negative")}
    assert added["composition"]["positive"] > 1e-2
    assert added["style transfer precise"]["positive"] == 0
    assert added["style transfer precise"]["negative"] > 1e-2


def test_a_mask_lets_it_speak_in_places_also_inside_of_areas(setting, opened, prompts, adapter_file, device):
    file, embeds = adapter_file("sd1", "plain"), embedding("plain")
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :32] = 1
    noted = {}

    class Note(AttentionPatch):
        def __init__(self, name):
            self.name = name

        def at_site(self, site):
            return site.cross and site.index == 1

        def __call__(self, call, next):
            noted[self.name] = next(call)
            noted["size"] = call.site.size
            return noted[self.name]

    def added(guidance, mask):
        setting("sd1", Note("before"), prompt(file, embeds, device, mask=mask), Note("after"), guidance=guidance)
        difference = (noted["after"] - noted["before"]).abs().amax((0, 1, 3))
        return difference.view(noted["size"])

    whole = Conditional(prompts["sd1"][0])
    out = added(whole, mask)
    assert out[:, :8].min() > 1e-3
    assert out[:, 8:].max() == 0
    assert torch.equal(added(whole, torch.ones(1, 64, 64)), added(whole, None))
    left, right = (Conditional(set_area(prompts["sd1"][0], 16, 8, 0, x, 1.0, False)) for x in (0, 8))
    assert added(left, mask).min() > 1e-3
    assert added(right, mask).max() == 0


def test_scalings_by_hand():
    k, v = noise(0, 1, 4, 64), noise(1, 1, 4, 64)
    assert scaled(k, v, 0.5, "V only") == (k, v)
    torch.testing.assert_close(scaled(k, v, 0.5, "K+V"), (k / 2, v / 2))
    torch.testing.assert_close(scaled(k, v, 0.5, "K+V w/ C penalty"), (k * 0.025, v * 0.025))
    got = scaled(k, v, 0.5, "K+mean(V) w/ C penalty")
    torch.testing.assert_close(got[0], k * 0.025)
    torch.testing.assert_close(got[1], v + (0.025 - 1) * v.mean(1, keepdim=True))


@pytest.mark.parametrize("scaling", ["K+V", "K+mean(V) w/ C penalty"])
def test_the_weight_may_be_in_keys_and_values(setting, adapter_file, device, scaling):
    file, embeds = adapter_file("sd1", "plain"), embedding("plain")
    noted = {}

    class Note(AttentionPatch):
        def __init__(self, name):
            self.name = name

        def at_site(self, site):
            return site.cross and site.index == 1

        def __call__(self, call, next):
            noted[self.name] = next(call)
            noted["q"] = call.q
            return noted[self.name]

    image = prompt(file, embeds, device, 0.6, scaling=scaling)
    setting("sd1", Note("before"), image, Note("after"))
    told = load_file(file)
    k, v = (image.positive @ told[f"ip_adapter.1.to_{each}_ip.weight"].T for each in "kv")
    k, v = (x.unflatten(-1, (4, -1)).transpose(1, 2).expand(2, -1, -1, -1) for x in scaled(k, v, 0.6, scaling))
    wanted = F.scaled_dot_product_attention(noted["q"][:2], k, v)
    torch.testing.assert_close((noted["after"] - noted["before"])[:2], wanted, rtol=1e-4, atol=1e-5)


def test_sites_are_numbered_down_up_middle(opened, device):
    with device.weights(opened["sd1"][0].weights) as unet:
        found = [site for site, _ in sites(unet)]
        wanted = [name.removesuffix(".processor") for name in unet.attn_processors]
    numbers = key_numbers(found)
    assert {site.name: numbers[site.index] for site in found if site.cross} == {
        name: number for number, name in enumerate(wanted) if name.endswith("attn2")
    }
    assert max(numbers.values()) == 31
    assert next(site.place for site in found if numbers.get(site.index) == 31) == "mid"


def test_an_adapter_for_another_kind_of_model_is_refused(setting, adapter_file, device):
    with pytest.raises(ValueError, match="it has weights for 11 cross-attentions, this model has 16"):
        setting("sd1", prompt(adapter_file("sdxl", "plain"), embedding("plain"), device))


def test_a_patched_model_travels_between_processes(setting, opened, adapter_file, device):
    image = prompt(adapter_file("sd1", "plain"), embedding("plain"), device)
    again = pickle.loads(pickle.dumps(image))
    for branch, value in setting("sd1", image).items():
        assert torch.equal(value, setting("sd1", again)[branch])


def test_the_real_unets_have_the_widths_of_the_files_in_use(make_ip_adapter):
    xl = {
        "block_out_channels": (320, 640, 1280),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    }
    for name, config in (("sd15", {"cross_attention_dim": 768}), ("sdxl", xl)):
        with torch.device("meta"):
            found = sites(UNet2DConditionModel(**config))
        numbers = key_numbers([site for site, _ in found])
        widths = {numbers[site.index]: module.to_k.weight.shape for site, module in found if site.cross}
        wanted, text = make_ip_adapter.MODELS[name]
        assert widths == {2 * i + 1: (width, text) for i, width in enumerate(wanted)}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_half_precision_it_is_nearly_the_same(opened, prompts, adapter_file, device, dtype):
    model, x = opened["sd1"][0], noise(1, 1, 4, SIZE, SIZE) * SIGMA
    image = prompt(adapter_file("sd1", "plain"), embedding("plain"), device, mask=torch.ones(1, 8, 8))

    def run(model):
        with open_session(model, Conditional(prompts["sd1"][0]), device) as net, torch.no_grad():
            return net.denoise(x, SIGMA)

    half = replace(model, weights=replace(model.weights, dtype=dtype))
    whole, without = run(model.patched(image)), run(model)
    difference = (run(half.patched(image)) - whole).abs().max()
    assert difference < 0.1 * (whole - without).abs().max()
