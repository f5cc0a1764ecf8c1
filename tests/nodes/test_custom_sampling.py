import pytest
import torch

from diffusion.guidance import CFG, Conditional, DualCFG
from diffusion.samplers import SAMPLERS, make_stepper
from diffusion.values import Latent, Noise, Sampler
from nodes import samplers
from nodes.custom_sampling import DisableNoise, RandomNoise, SamplerCustom, SamplerCustomAdvanced
from nodes.guiders import BasicGuider, CFGGuider, DualCFGGuider
from nodes.latent import EmptyLatentImage
from nodes.sample import KSampler
from nodes.samplers import KSamplerSelect
from nodes.sigmas import BasicScheduler, SplitSigmas


@pytest.fixture
def parts(ctx, model, red, blue):
    return {
        "guider": CFGGuider(model=model, positive=red, negative=blue, cfg=3.0).run(ctx),
        "sampler": KSamplerSelect(sampler_name="euler").run(ctx),
        "sigmas": BasicScheduler(model=model, scheduler="karras", steps=4).run(ctx),
        "latent_image": EmptyLatentImage(width=64, height=64).run(ctx),
    }


def test_the_chain_of_parts_is_the_same_run_as_ksampler(ctx, parts, model, red, blue):
    settings = {"seed": 5, "steps": 4, "cfg": 3.0, "sampler_name": "euler", "scheduler": "karras"}
    whole = KSampler(model=model, positive=red, negative=blue, latent_image=parts["latent_image"], **settings).run(ctx)
    chain = SamplerCustomAdvanced(noise=RandomNoise(noise_seed=5).run(ctx), **parts).run(ctx)
    assert torch.equal(chain.output.x, whole.x)
    assert torch.allclose(chain.denoised_output.x, whole.x, atol=1e-4)  # the last step ends on the last estimate
    one = {name: value for name, value in parts.items() if name != "guider"}
    custom = SamplerCustom(model=model, positive=red, negative=blue, cfg=3.0, noise_seed=5, **one).run(ctx)
    assert torch.equal(custom.output.x, whole.x)


def test_two_halves_make_the_whole(ctx, parts):
    whole = SamplerCustomAdvanced(noise=Noise(5), **parts).run(ctx)
    high, low = SplitSigmas(sigmas=parts["sigmas"], step=2).run(ctx)
    first = SamplerCustomAdvanced(noise=Noise(5), **parts | {"sigmas": high}).run(ctx)
    assert not torch.allclose(first.output.x, first.denoised_output.x, atol=0.1)
    rest = parts | {"sigmas": low, "latent_image": first.output}
    second = SamplerCustomAdvanced(noise=DisableNoise().run(ctx), **rest).run(ctx)
    assert torch.allclose(second.output.x, whole.output.x, atol=1e-4)


def test_without_added_noise_the_seed_still_drives_the_sampler(ctx, parts, model, red, blue):
    start = Latent(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)) * 10)
    settings = {"model": model, "positive": red, "negative": blue, "add_noise": False, "cfg": 1.0}
    settings |= {"sampler": Sampler.of("euler_ancestral"), "sigmas": parts["sigmas"], "latent_image": start}
    a, b, c = (SamplerCustom(noise_seed=seed, **settings).run(ctx).output.x for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_guiders_say_what_they_are_made_of(ctx, model, red, blue):
    assert isinstance(BasicGuider(model=model, conditioning=red).run(ctx).guidance, Conditional)
    guidance = CFGGuider(model=model, positive=red, negative=blue, cfg=2.5).run(ctx).guidance
    assert isinstance(guidance, CFG)
    assert (guidance.positive, guidance.negative, guidance.scale) == (red, blue, 2.5)
    dual = DualCFGGuider(model=model, cond1=red, cond2=blue, negative=blue, cfg_conds=2.0, cfg_cond2_negative=3.0, style="nested")
    dual = dual.run(ctx).guidance
    assert isinstance(dual, DualCFG)
    assert (dual.first, dual.second, dual.first_scale, dual.second_scale, dual.nested) == (red, blue, 2.0, 3.0, True)


def test_every_sampler_node_names_a_sampler_and_options_that_there_are(ctx, model):
    classes = [value for value in vars(samplers).values() if isinstance(value, type) and value.__module__ == "nodes.samplers"]
    assert len(classes) == 12
    required = {KSamplerSelect: {"sampler_name": "euler"}, samplers.SamplerSASolver: {"model": model}}
    for cls in classes:
        sampler = cls(**required.get(cls, {})).run(ctx)
        assert {name for name, _ in sampler.options} <= set(SAMPLERS[sampler.name].options)
        make_stepper(sampler.name, **dict(sampler.options))


def test_sampler_nodes_at_their_defaults_are_the_samplers_of_their_names(ctx, model):
    """Also SA-Solver, whose range of noise is given in levels of the model by the node, and in percent by the sampler."""
    for node, name in (
        (samplers.SamplerEulerAncestralCFGPP(), "euler_ancestral_cfg_pp"),
        (samplers.SamplerDPMAdaptative(), "dpm_adaptive"),
        (samplers.SamplerER_SDE(), "er_sde"),
        (samplers.SamplerSEEDS2(), "seeds_2"),
        (samplers.SamplerSASolver(model=model), "sa_solver"),
    ):
        sampler = node.run(ctx)
        assert sampler.name == name
        options, table = dict(sampler.options), model.process.table()
        levels = {"sde_start": table.percent_to_sigma(0.2), "sde_end": table.percent_to_sigma(0.8)} if name == "sa_solver" else {}
        assert options == SAMPLERS[name].options | levels
