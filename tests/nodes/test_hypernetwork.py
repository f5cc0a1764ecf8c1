"""Hypernetworks against the formula in stock attention, and files that are none."""

import pytest
import torch
from torch import nn

from diffusion.convert import convert
from diffusion.files import ALLOW
from diffusion.guidance import Conditional
from diffusion.hypernetwork import read_hypernetwork
from diffusion.session import open_session
from graph_engine.errors import NodeError
from nodes.hyper_tile import HyperTile
from nodes.hypernetwork import HypernetworkLoader

SIGMA = 3.0
WIDTHS = (32, 64)  # the text's and the first level's, the second level's
STRUCTURES = {  # settings of a file, and the network as the web UI builds it
    "one layer": ({"activation_func": "linear"}, lambda d: [nn.Linear(d, d)]),
    "two layers": ({"activation_func": None}, lambda d: [nn.Linear(d, 2 * d), nn.Linear(2 * d, d)]),
    "relu": ({"activation_func": "relu"}, lambda d: [nn.Linear(d, 2 * d), nn.ReLU(), nn.Linear(2 * d, d)]),
    "swish": (
        {"activation_func": "swish", "activate_output": True, "layer_structure": [1, 2, 1]},
        lambda d: [nn.Linear(d, 2 * d), nn.Hardswish(), nn.Linear(2 * d, d), nn.Hardswish()],
    ),
    "layer norm": (
        {"activation_func": "mish", "is_layer_norm": True, "use_dropout": True, "last_layer_dropout": False},
        lambda d: [nn.Linear(d, 2 * d), nn.Mish(), nn.LayerNorm(2 * d), nn.Dropout(0.3), nn.Linear(2 * d, d), nn.LayerNorm(d)],
    ),
}


def pair(build, d, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + d)
        return [nn.Sequential(*build(d)).eval() for _ in range(2)]


def content(networks, settings):
    """What the web UI writes."""
    tables = {d: [{f"linear.{name}": t for name, t in net.state_dict().items()} for net in nets] for d, nets in networks.items()}
    return {**tables, "step": 7, "name": "style", "sd_checkpoint": None, **settings}


@pytest.fixture
def place(folders, monkeypatch):
    monkeypatch.setenv(ALLOW, "1")
    place = folders.base / "models" / "hypernetworks"
    place.mkdir(parents=True)
    return place


@pytest.fixture
def x():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)) * SIGMA


def denoise(model, device, red, x):
    with open_session(model, Conditional(red), device) as net, torch.no_grad():
        return net.denoise(x, SIGMA)


def by_formula(model, device, red, x, *moves):
    """D of diffusers' own attention, in which to_k reads c + s·f(c) and to_v c + s·g(c)."""
    table, hooks = model.process.table(), []
    with device.weights(model.weights) as unet, torch.no_grad():
        for name, module in unet.named_modules():
            for networks, strength in moves:
                for i, projection in enumerate(("to_k", "to_v")):
                    if name.endswith(projection) and module.in_features in networks:
                        net = networks[module.in_features][i]
                        hooks.append(module.register_forward_pre_hook(lambda _, c, net=net, s=strength: (c[0] + s * net(c[0]),)))
        t = torch.full((len(x),), table.t(SIGMA))
        eps = unet(x / (SIGMA**2 + 1) ** 0.5, t, encoder_hidden_states=red.entries[0].embeds.expand(len(x), -1, -1)).sample
        for hook in hooks:
            hook.remove()
    return x - SIGMA * eps


@pytest.mark.parametrize("structure", STRUCTURES)
def test_keys_and_values_are_projected_from_what_it_makes(structure, ctx, place, model, device, red, x):
    settings, build = STRUCTURES[structure]
    networks = {d: pair(build, d) for d in WIDTHS}
    torch.save(content(networks, settings), place / "style.pt")
    moved = HypernetworkLoader(model=model, hypernetwork_name="style.pt", strength=0.7).run(ctx)
    plain, out = denoise(model, device, red, x), denoise(moved, device, red, x)
    torch.testing.assert_close(out, by_formula(model, device, red, x, (networks, 0.7)), atol=1e-5, rtol=1e-5)
    assert (out - plain).abs().max() > 1e-2
    assert torch.equal(denoise(model, device, red, x), plain)  # nothing stays behind


def test_several_go_one_after_the_other(ctx, place, model, device, red, x):
    build = STRUCTURES["relu"][1]
    first, second = ({d: pair(build, d, seed) for d in WIDTHS} for seed in (1, 2))
    for name, networks in (("first", first), ("second", second)):
        torch.save(content(networks, {"activation_func": "relu"}), place / f"{name}.pt")
    moved = HypernetworkLoader(model=model, hypernetwork_name="first.pt", strength=-1).run(ctx)
    moved = HypernetworkLoader(model=moved, hypernetwork_name="second.pt", strength=0.5).run(ctx)
    expected = by_formula(model, device, red, x, (first, -1), (second, 0.5))
    torch.testing.assert_close(denoise(moved, device, red, x), expected, atol=1e-5, rtol=1e-5)


def test_before_or_after_a_patch_that_rearranges_keys_is_the_same(ctx, place, model, device, red, x):
    torch.save(content({d: pair(STRUCTURES["relu"][1], d) for d in WIDTHS}, {"activation_func": "relu"}), place / "style.pt")

    def hyper(model):
        return HypernetworkLoader(model=model, hypernetwork_name="style.pt").run(ctx)

    def tiled(model):
        return HyperTile(model=model, tile_size=32).run(ctx)

    both = denoise(tiled(hyper(model)), device, red, x)
    assert torch.equal(both, denoise(hyper(tiled(model)), device, red, x))
    assert (both - denoise(hyper(model), device, red, x)).abs().max() > 1e-3


def test_no_strength_and_a_network_of_zeros_change_nothing(ctx, place, model, device, red, x):
    networks = {d: pair(STRUCTURES["relu"][1], d) for d in WIDTHS}
    torch.save(content(networks, {"activation_func": "relu"}), place / "style.pt")
    assert HypernetworkLoader(model=model, hypernetwork_name="style.pt", strength=0).run(ctx) is model
    for nets in networks.values():
        for parameter in [p for net in nets for p in net.parameters()]:
            parameter.data.zero_()
    torch.save(content(networks, {"activation_func": "relu"}), place / "zero.pt")
    zero = HypernetworkLoader(model=model, hypernetwork_name="zero.pt").run(ctx)
    assert torch.equal(denoise(zero, device, red, x), denoise(model, device, red, x))


def test_widths_that_a_file_lacks_stay_as_they_are(ctx, place, model, device, red, x):
    networks = {64: pair(STRUCTURES["one layer"][1], 64)}
    torch.save(content(networks, {}), place / "style.pt")
    moved = HypernetworkLoader(model=model, hypernetwork_name="style.pt").run(ctx)
    torch.testing.assert_close(denoise(moved, device, red, x), by_formula(model, device, red, x, (networks, 1)), atol=1e-5, rtol=1e-5)


def test_one_for_another_kind_of_model_is_refused(ctx, place, model, device, red, x):
    torch.save(content({320: pair(STRUCTURES["one layer"][1], 320)}, {}), place / "style.pt")
    moved = HypernetworkLoader(model=model, hypernetwork_name="style.pt").run(ctx)
    with pytest.raises(ValueError, match=r"hypernetwork: it has widths 320, this model's attention 32, 64"):
        denoise(moved, device, red, x)


def test_pickled_files_are_read_only_where_allowed_and_converted_ones_always(ctx, place, model, device, red, x, monkeypatch):
    settings, build = STRUCTURES["swish"]
    networks = {d: pair(build, d) for d in WIDTHS}
    torch.save(content(networks, settings), place / "style.pt")
    convert(place / "style.pt")
    monkeypatch.delenv(ALLOW)
    with pytest.raises(NodeError, match=r"hypernetwork_name: style\.pt: .*--allow-pickle.*python -m diffusion\.convert style\.pt"):
        HypernetworkLoader(model=model, hypernetwork_name="style.pt").run(ctx)
    moved = HypernetworkLoader(model=model, hypernetwork_name="style.safetensors").run(ctx)
    torch.testing.assert_close(denoise(moved, device, red, x), by_formula(model, device, red, x, (networks, 1)), atol=1e-5, rtol=1e-5)


def test_the_names_of_the_oldest_files(place):
    layers = {
        "linear1.weight": torch.ones(8, 4),
        "linear1.bias": torch.ones(8),
        "linear2.weight": torch.ones(4, 8),
        "linear2.bias": torch.ones(4),
    }
    torch.save({4: (layers, layers)}, place / "old.pt")
    (f, _) = read_hypernetwork(place / "old.pt")[4]
    assert torch.equal(f(torch.ones(1, 4)), torch.full((1, 4), 8 * 5 + 1.0))


LAYER = {"linear.0.weight": torch.ones(4, 4), "linear.0.bias": torch.ones(4)}
WRONG = {
    "something else": ({"a": torch.ones(1)}, "a hypernetwork is wanted"),
    "no table": ([1, 2], "a hypernetwork is wanted"),
    "unknown activation": ({4: [LAYER, LAYER], "activation_func": "sine"}, "activation_func: one of .* is wanted, 'sine' found"),
    "no values": ({4: [LAYER]}, "width 4: linear layers that give 4 numbers are wanted, none found"),
    "another width": ({8: [LAYER, LAYER]}, r"width 8: linear\.0 should take 8 numbers, its shape is \(4, 4\)"),
    "no bias": ({4: [{"linear.0.weight": torch.ones(4, 4)}, LAYER]}, r"width 4: weight and bias .* not so: linear\.0\.bias"),
    "a convolution": ({4: [{**LAYER, "linear.0.weight": torch.ones(4, 4, 1)}, LAYER]}, "width 4: weight and bias .* their shape"),
    "another end": (
        {4: [{"linear.0.weight": torch.ones(6, 4), "linear.0.bias": torch.ones(6)}, LAYER]},
        "give 4 numbers are wanted, 6 found",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_another_file_is_refused_by_name(kind, ctx, place, model):
    stored, message = WRONG[kind]
    torch.save(stored, place / "other.pt")
    with pytest.raises(NodeError, match=r"hypernetwork_name: other\.pt: " + ".*" + message):
        HypernetworkLoader(model=model, hypernetwork_name="other.pt").run(ctx)
