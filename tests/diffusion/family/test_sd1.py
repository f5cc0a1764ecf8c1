import pytest
import torch

from diffusion.family import family
from diffusion.text import encode, open_text


def ids_of(tokens):
    return torch.tensor(tokens.ids).view(-1, tokens.chunk)


def test_families_are_found_by_name():
    assert family("sd1").latent.scale == 0.18215
    with pytest.raises(ValueError, match="sd1"):
        family("sd9")


def test_text_states_are_those_of_transformers(clip, device, red):
    with open_text(clip, device) as encoder, torch.no_grad():
        theirs = encoder.model(ids_of(red.entries[0].tokens[0]))
    assert torch.allclose(red.entries[0].embeds, theirs.last_hidden_state, atol=1e-5)
    assert torch.allclose(red.entries[0].pooled, theirs.pooler_output, atol=1e-5)


@pytest.mark.parametrize("last_layer", [-1, -2, -3])
def test_clip_skip_takes_an_earlier_layer_and_the_final_norm(clip, device, red, last_layer):
    from dataclasses import replace

    with open_text(clip, device) as encoder, torch.no_grad():
        out = encoder.model(ids_of(red.entries[0].tokens[0]), output_hidden_states=True)
        expected = encoder.model.final_layer_norm(out.hidden_states[-1 if last_layer == -1 else last_layer])
    skipped = encode(replace(clip, last_layer=last_layer), "a photograph of a red cat", device)
    assert torch.allclose(skipped.entries[0].embeds, expected, atol=1e-5)
    assert torch.equal(skipped.entries[0].pooled, red.entries[0].pooled)


def test_stopping_before_the_first_layer_warns_and_takes_the_last(clip, device, red):
    from dataclasses import replace

    with pytest.warns(UserWarning, match="3 layers"):
        far = encode(replace(clip, last_layer=-24), "a photograph of a red cat", device)
    assert torch.equal(far.entries[0].embeds, red.entries[0].embeds)


def test_a_text_patch_changes_the_encoding_and_is_undone(clip, device, red):
    from dataclasses import dataclass

    from diffusion.patch import WeightPatch
    from diffusion.weights import FullDelta

    @dataclass(frozen=True, slots=True, eq=False)
    class Tune(WeightPatch):
        def deltas(self):
            return (FullDelta("model.encoder.layers.0.self_attn.q_proj.weight", torch.eye(32)),)

    tuned = encode(clip.patched(Tune()), "a photograph of a red cat", device)
    assert not torch.allclose(tuned.entries[0].embeds, red.entries[0].embeds, atol=1e-3)
    again = encode(clip, "a photograph of a red cat", device)
    assert torch.equal(again.entries[0].embeds, red.entries[0].embeds)


def test_ideographs_are_words_of_their_own_and_spans_still_fit(clip, device):
    with open_text(clip, device) as encoder:
        apart, together = encoder.split("red 日 本 cat"), encoder.split("red 日本 cat")
    assert [id for id, _ in apart] == [id for id, _ in together]
    assert together[-1][1] == (7, 10)
    assert {span for _, span in together[1:-1]} == {(4, 5), (5, 6)}


def test_sizes_round_up(model, device):
    with device.weights(model.weights) as unet:
        assert family("sd1").sizes(unet, 5, 8) == {1: (5, 8), 2: (3, 4)}
        small, large = (family("sd1").working_bytes(unet, rows, 8, 8) for rows in (1, 4))
    assert large == 4 * small > 0


def test_an_unknown_part_is_refused(model):
    from dataclasses import replace

    with pytest.raises(ValueError, match="unet, text or vae"):
        family("sd1").load(replace(model.weights, part="ear"), torch.float32)
