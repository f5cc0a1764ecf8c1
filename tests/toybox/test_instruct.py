"""Instructions and the variant that follows them, in miniature."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from toybox import tokenizer, train_instruct
from toybox.ddim import Diffuser
from toybox.export import scheduler
from toybox.generator import MINIATURE, build_text, build_unet
from toybox.instructions import SHARES, edit
from toybox.run import Run


@pytest.fixture
def model() -> Diffuser:
    torch.manual_seed(0)
    words = tokenizer.build()
    unet, text = build_unet(MINIATURE), build_text(MINIATURE, words)
    return Diffuser(words, text.eval().requires_grad_(False), None, unet.eval().requires_grad_(False), scheduler())


@pytest.fixture(scope="module")
def latents() -> tuple[Tensor, Tensor]:
    lot = torch.Generator().manual_seed(0)
    return torch.randn(8, 4, 16, 16, generator=lot).half(), torch.randn(8, 4, 16, 16, generator=lot).half()


@pytest.mark.parametrize("name", SHARES)
def test_an_edit_changes_what_it_says_and_nothing_else(name: str) -> None:
    for seed in range(60):
        each = edit(seed, name)
        if name in ("background_color", "texture"):
            new = getattr(each.after.background, name.removeprefix("background_"))
            assert each.after.replace(0, **{name: getattr(each.before.background, name.removeprefix("background_"))}) == each.before
            assert "background" in each.text
        else:
            old, new = (getattr(scene.objects[each.object], name) for scene in (each.before, each.after))
            assert each.after.replace(each.object, **{name: old}) == each.before
            assert each.before.objects[each.object].shape in each.text.split()
        assert each.after != each.before
        assert new in each.text or (name == "size" and ("larger" if new == "large" else "smaller") in each.text)


def test_every_word_is_one_that_the_model_has() -> None:
    known = set(tokenizer.vocabulary())
    assert {word for seed in range(500) for word in edit(seed).text.split()} <= known
    assert {edit(seed).attribute for seed in range(200)} == set(SHARES)
    assert edit(3) == edit(3)
    with pytest.raises(ValueError, match="attribute: one of color"):
        edit(0, "mood")


def test_the_expanded_network_starts_as_the_original(model: Diffuser) -> None:
    wide = train_instruct.expanded(model.unet).eval()
    x, shown, words = torch.randn(2, 4, 16, 16), torch.randn(2, 4, 16, 16), model.text(["a red star", ""])
    with torch.no_grad():
        ours, theirs = wide(torch.cat((x, shown), 1), 300, words).sample, model.unet(x, 300, words).sample
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_words_and_picture_are_left_out_as_often_as_they_should(model: Diffuser, latents: tuple[Tensor, Tensor]) -> None:
    before, after = (x.repeat(500, 1, 1, 1) for x in latents)
    b = train_instruct.batch(before, after, model.tokenizer, 0, 4000)
    end = b["tokens"][:, 1] == model.tokenizer.eos_token_id
    blind = b["shown"].flatten(1).abs().sum(1) == 0
    for hits in (end & ~blind, end & blind, ~end & blind):
        assert hits.float().mean().item() == pytest.approx(0.05, abs=0.015)


def test_training_resumes_bit_equal_and_ships(model: Diffuser, latents: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    def train(folder: str, until: int) -> torch.nn.Module:
        start = train_instruct.expanded(model.unet)
        return train_instruct.train(Run(tmp_path / folder, "instruct", 1, 4), start, model, *latents, batch_size=4, until=until)

    train("cut", 2)
    cut, whole = train("cut", 4), train("whole", 4)
    assert all(torch.equal(v, whole.state_dict()[k]) for k, v in cut.state_dict().items())
    kept = {k: v.half() for k, v in whole.state_dict().items()}
    train_instruct.export(whole, tmp_path / "shipped")
    again = type(model.unet).from_pretrained(tmp_path / "shipped" / "unet", torch_dtype=torch.float16)
    assert again.config.in_channels == 8
    assert all(torch.equal(v, kept[k]) for k, v in again.state_dict().items())
