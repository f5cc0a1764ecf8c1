import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from diffusion.convert import convert
from diffusion.embedding import read_embedding
from diffusion.files import ALLOW
from diffusion.text import encode, open_text, tokenize

V = torch.randn(2, 32, generator=torch.Generator().manual_seed(5))
SAFE = {
    "a1111": {"emb_params": V},
    "diffusers": {"<cat>": V},
    "one row": {"<cat>": V[0]},
    "bundled in a LoRA": {"lora_unet_x.alpha": torch.ones(()), "bundle_emb.cat.string_to_param.*": V},
}
PICKLED = {
    "a1111": {"string_to_token": {"*": 265}, "string_to_param": {"*": V}, "name": "cat", "step": 3},
    "authors": {"string_to_token": {"*": 265}, "string_to_param": nn.ParameterDict({"*": nn.Parameter(V)})},
    "list": [{"<cat>": V}],
    "diffusers": {"<cat>": V},
    "tensor": V,
}


@pytest.mark.parametrize("kind", SAFE)
def test_safetensors_formats(kind, tmp_path):
    save_file(SAFE[kind], tmp_path / "cat.safetensors")
    (found,) = read_embedding(tmp_path / "cat.safetensors").values()
    assert torch.equal(found.reshape(-1, 32), V[:1] if kind == "one row" else V)


def test_sdxl_files_have_vectors_for_each_encoder(tmp_path):
    for prefix in ("", "bundle_emb.cat."):
        save_file({f"{prefix}clip_l": V, f"{prefix}clip_g": V[:, :16].contiguous()}, tmp_path / "cat.safetensors")
        found = read_embedding(tmp_path / "cat.safetensors")
        assert torch.equal(found["l"], V)
        assert torch.equal(found["g"], V[:, :16])


@pytest.mark.parametrize("kind", PICKLED)
def test_pickled_formats_where_allowed(kind, tmp_path, monkeypatch):
    torch.save(PICKLED[kind], tmp_path / "cat.pt")
    with pytest.raises(ValueError, match=r"--allow-pickle.*python -m diffusion\.convert cat\.pt"):
        read_embedding(tmp_path / "cat.pt")
    (converted,) = read_embedding(convert(tmp_path / "cat.pt")).values()
    monkeypatch.setenv(ALLOW, "1")
    (found,) = read_embedding(tmp_path / "cat.pt").values()
    assert torch.equal(found, V)
    assert torch.equal(converted, V)


def test_a_file_without_vectors_is_refused(tmp_path):
    save_file({"x": torch.zeros(1, 2, 3)}, tmp_path / "cat.safetensors")
    with pytest.raises(ValueError, match="vectors of a learned word"):
        read_embedding(tmp_path / "cat.safetensors")


def test_a_learned_word_of_known_rows_encodes_as_those_words(clip, device):
    with open_text(clip, device) as encoder:
        ids = [id for id, _ in encoder.split("red cat")]
        rows = encoder.model.embeddings.token_embedding.weight[ids].clone()
    find = {"mine": {"": rows}}.get
    for written, plain in (("a embedding:mine dog", "a red cat dog"), ("(embedding:mine:1.4) dog", "(red cat:1.4) dog")):
        assert torch.equal(
            encode(clip, written, device, find=find).entries[0].embeds, encode(clip, plain, device, find=find).entries[0].embeds
        )
    (entry,) = encode(clip, "a embedding:mine, dog", device, find=find)
    assert torch.equal(entry.embeds, encode(clip, "a red cat , dog", device).entries[0].embeds)
    assert entry.tokens[0].ids.count(-1) == entry.tokens[0].ids.count(-2) == 1


def test_learned_words_are_cut_into_chunks_and_joined(clip, device):
    many = torch.randn(14, 32, generator=torch.Generator().manual_seed(1))
    (entry,) = encode(clip, "cat embedding:many", device, find={"many": {"l": many}}.get)
    assert entry.embeds.shape == (1, 24, 32)
    assert sorted(id for id in entry.tokens[0].ids if id < 0) == list(range(-14, 0))


def test_an_unknown_word_stays_text_and_a_wrong_width_is_left_out(clip, device):
    with open_text(clip, device) as encoder:
        plain = tokenize(encoder, "a embedding:nothere cat")
        with pytest.warns(UserWarning, match="no embedding 'nothere'"):
            assert tokenize(encoder, "a embedding:nothere cat", find={}.get).ids == plain.ids
        with pytest.warns(UserWarning, match="width 8, 32 is wanted"):
            wrong = tokenize(encoder, "a embedding:big cat", find={"big": {"": torch.zeros(1, 8)}}.get)
        with warnings.catch_warnings():
            assert wrong.ids == tokenize(encoder, "a cat").ids
