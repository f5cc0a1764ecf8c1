"""On an accelerator: the pictures of the CPU within half precision, weights that come and go, a clean end when memory is short."""

import pytest
import torch

import toybox
from diffusion.loading import open_checkpoint
from diffusion.memory import open_device
from graph_engine import Engine, Graph, Registry

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture(scope="module")
def registry():
    return Registry.discover()


def picture(registry, *, seed=1, width=128, compiled=False):
    g = Graph(registry)
    loaded = g.CheckpointLoaderSimple(ckpt_name="toybox")
    text = g.CLIPTextEncode(clip=loaded.clip, text="a large red star on the left on a blue plain background")
    nothing = g.CLIPTextEncode(clip=loaded.clip, text="")
    canvas = g.EmptyLatentImage(width=width, height=width)
    model = g.TorchCompileModel(model=loaded.model) if compiled else loaded.model
    latent = g.KSampler(
        model=model, positive=text, negative=nothing, latent_image=canvas,
        seed=seed, steps=10, cfg=3.0, sampler_name="euler", scheduler="normal", denoise=1.0,
    )  # fmt: skip
    g.VAEDecode(samples=latent, vae=loaded.vae, _id="picture")
    return g


def pixels(engine, graph):
    result = engine.run(graph, wanted=["picture"])
    result.raise_for_error()
    return result["picture"].pixels.float().cpu()


def test_the_same_seed_gives_the_same_picture_as_on_the_cpu(registry):
    graph = picture(registry)
    with Engine(registry, device="cpu") as host, Engine(registry, device="cuda") as card:
        difference = (pixels(host, graph) - pixels(card, graph)).abs().mean()
    assert difference < 0.02


def test_the_same_run_twice_on_the_card_is_bit_equal(registry):
    with Engine(registry, device="cuda", cache_bytes=0) as card:
        assert torch.equal(pixels(card, picture(registry)), pixels(card, picture(registry)))


def test_convolutions_have_their_channels_last_and_compiled_ones_agree(registry):
    with Engine(registry, device=open_device("cuda")) as card:
        plain = pixels(card, picture(registry))
        model = open_checkpoint(toybox.WEIGHTS)[0]
        with card.device.weights(model.weights) as unet:
            assert unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
        assert (pixels(card, picture(registry, compiled=True)) - plain).abs().mean() < 0.02


def test_memory_returns_to_where_it_was(registry):
    with Engine(registry, device=open_device("cuda"), cache_bytes=0) as card:
        pixels(card, picture(registry))
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        for seed in range(5):
            pixels(card, picture(registry, seed=seed))
        torch.cuda.synchronize()
        assert torch.cuda.memory_allocated() <= before


def test_too_little_memory_ends_the_run_with_a_table_of_who_holds_what(registry):
    with Engine(registry, device="cuda", cache_bytes=0) as card:
        free, _ = torch.cuda.mem_get_info()
        hog = torch.empty(free - (64 << 20), dtype=torch.uint8, device="cuda")
        result = card.run(picture(registry, width=2048), wanted=["picture"])
        del hog
        torch.cuda.empty_cache()
        assert result.status == "error"
        assert {failure.reason for failure in result.failures} == {"oom"}
        assert pixels(card, picture(registry)).shape == (1, 128, 128, 3), "the engine goes on"
