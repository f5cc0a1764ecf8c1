import dataclasses
import pickle

import pytest
import torch

from diffusion import values
from diffusion.guidance import CFG, Conditional, DualCFG
from diffusion.values import Cond, Conditioning, Image, Latent, Mask, Model, Sampler, Sigmas, WeightsRef


def test_every_socket_is_a_frozen_dataclass_with_its_own_name():
    classes = [c for c in vars(values).values() if isinstance(c, type) and hasattr(c, "socket")]
    assert len({c.socket for c in classes}) == len(classes) >= 14
    for cls in classes:
        assert dataclasses.is_dataclass(cls)
        assert cls.__dataclass_params__.frozen
        assert "socket" not in {f.name for f in dataclasses.fields(cls)}


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda: Image(torch.zeros(4, 4, 3)), "b, h, w, 3"),
        (lambda: Image(torch.zeros(1, 3, 8, 8)), "3 or 4 channels last"),
        (lambda: Mask(torch.zeros(1, 4, 4, 1)), "b, h, w"),
        (lambda: Latent(torch.zeros(4, 8, 8)), "b, c, h, w"),
        (lambda: Latent(torch.zeros(1, 4, 8, 8), noise_mask=torch.zeros(1, 8, 8)), "b, 1, h, w"),
        (lambda: Latent(torch.zeros(2, 4, 8, 8), batch_index=(0,)), "2 indices"),
        (lambda: Sigmas(torch.zeros(2, 2)), "n"),
        (lambda: Cond(torch.zeros(77, 8)), "b, tokens, width"),
    ],
)
def test_wrong_shapes_are_refused_by_name(make, wanted):
    with pytest.raises(ValueError, match=wanted):
        make()


def test_one_mask_alone_needs_no_batch():
    alone = torch.rand(3, 5)
    assert torch.equal(Mask(alone).values, alone[None])


def test_not_a_tensor_is_refused():
    with pytest.raises(TypeError, match="tensor"):
        Image([[0.0]])  # type: ignore[arg-type]


def test_a_model_pickles_with_its_patches():
    from diffusion.sample import KeepOutside

    model = Model(WeightsRef("sd1", "/nowhere", "unet", "0")).patched(
        KeepOutside(torch.ones(1, 1, 2, 2), torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2))
    )
    again = pickle.loads(pickle.dumps(model))
    assert again.weights == model.weights
    assert torch.equal(again.patches[0].mask, model.patches[0].mask)


def test_guidances_are_dataclasses_that_the_engine_can_walk():
    c = Conditioning((Cond(torch.zeros(1, 2, 3)),))
    for guidance in (Conditional(c), CFG(c, c, 2.0), DualCFG(c, c, c, 1.0, 2.0)):
        assert dataclasses.is_dataclass(guidance)


def test_a_changed_conditioning_leaves_the_old_one_alone():
    old = Conditioning((Cond(torch.zeros(1, 2, 3)),))
    new = old.map(strength=0.5)
    assert (old.entries[0].strength, new.entries[0].strength) == (1.0, 0.5)
    assert new.entries[0].embeds is old.entries[0].embeds


def test_sampler_options_do_not_depend_on_their_order():
    assert Sampler.of("x", a=1, b=2) == Sampler.of("x", b=2, a=1)
