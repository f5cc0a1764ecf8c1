import json

import pytest
import torch
from safetensors.torch import save_file

from diffusion.files import ALLOW
from diffusion.lora.file import parse_lora, read_lora

KEY = "lora_unet_mid_block_attentions_0_proj_in"
PAIR = {f"{KEY}.lora_up.weight": torch.ones(8, 2), f"{KEY}.lora_down.weight": torch.ones(2, 8)}
DOTS = "mid_block.attentions.0.proj_in"
PEFT = {f"{DOTS}.lora_B.weight": torch.ones(8, 2), f"{DOTS}.lora_A.weight": torch.ones(2, 8)}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_each_alpha_is_kept_as_it_is(dtype):
    tensors = PAIR | {
        f"{KEY}.alpha": torch.tensor(3, dtype=dtype),
        "lora_te_x.diff": torch.ones(1),
        "lora_unet_y.lora_up.weight": torch.ones(1, 1),
    }
    assert [module.alpha for module in parse_lora(tensors, "x").modules] == [3.0, None, None]


def test_alphas_of_one_element_are_numbers_too():
    assert parse_lora(PAIR | {f"{KEY}.alpha": torch.tensor([1.5])}, "x").modules[0].alpha == 1.5
    with pytest.raises(ValueError, match=r"alpha: one number"):
        parse_lora(PAIR | {f"{KEY}.alpha": torch.ones(2)}, "x")


@pytest.mark.parametrize(
    ("config", "alpha"),
    [
        ({"lora_alpha": 6}, 6.0),
        ({"lora_alpha": 6, "alpha_pattern": {"proj_in": 3}}, 3.0),
        ({"lora_alpha": 6, "alpha_pattern": {"mid_block.attentions.0.proj_in": 3}}, 3.0),
        ({"lora_alpha": 6, "alpha_pattern": {"roj_in": 3}}, 6.0),
        ({"lora_alpha": 6, "use_rslora": True}, 6.0 * 2**0.5),
        ({}, None),
    ],
)
def test_alpha_by_the_rules_of_peft(tmp_path, config, alpha):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, **config}))
    save_file({f"base_model.model.{key}": tensor for key, tensor in PEFT.items()}, tmp_path / "adapter_model.safetensors")
    for path in (tmp_path, tmp_path / "adapter_model.safetensors"):
        found = read_lora(path).modules[0].alpha
        assert found == (None if alpha is None else pytest.approx(alpha))


def test_alpha_in_the_metadata_that_diffusers_writes(tmp_path):
    notes = {"unet.r": 2, "unet.lora_alpha": 8, "unet.alpha_pattern": {"proj_in": 5}, "text_encoder.lora_alpha": 1}
    save_file({f"unet.{key}": t for key, t in PEFT.items()}, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(notes)})
    assert read_lora(tmp_path / "a.safetensors").modules[0].alpha == 5.0


def test_a_configuration_of_another_file_does_not_count(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 100}')
    save_file(PEFT, tmp_path / "other.safetensors")
    assert read_lora(tmp_path / "other.safetensors").modules[0].alpha is None


def test_an_alpha_among_the_tensors_goes_first():
    tensors = {f"unet.{key}": t for key, t in PEFT.items()} | {f"unet.{DOTS}.alpha": torch.tensor(7.0)}
    assert parse_lora(tensors, "x", config={"lora_alpha": 1}).modules[0].alpha == 7.0


def test_what_is_no_adapter_is_told(tmp_path):
    page = tmp_path / "page.safetensors"
    page.write_text("<html><body>Not found</body></html>")
    whole = tmp_path / "whole.safetensors"
    save_file(PAIR, whole)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:-20])
    pickle = tmp_path / "old.pt"
    pickle.write_bytes(b"\x80\x02")
    model = tmp_path / "model.safetensors"
    save_file({"conv_in.weight": torch.ones(1)}, model)
    empty = tmp_path / "empty"
    empty.mkdir()
    for path, words in (
        (page, r"LoRA page\.safetensors: this is an HTML page"),
        (cut, r"LoRA cut\.safetensors: the file is truncated"),
        (pickle, r"LoRA old\.pt: pickled files are not opened unless allowed \(--allow-pickle.*python -m diffusion\.convert old\.pt"),
        (model, r"model\.safetensors: keys such as .* are wanted, found conv_in\.weight"),
        (empty, r"empty: adapter_model\.safetensors is wanted"),
    ):
        with pytest.raises(ValueError, match=words):
            read_lora(path)


def test_a_pickled_file_where_allowed(tmp_path, monkeypatch):
    monkeypatch.setenv(ALLOW, "1")
    torch.save(PAIR | {f"{KEY}.alpha": torch.tensor(3.0)}, tmp_path / "old.pt")
    (module,) = read_lora(tmp_path / "old.pt").modules
    assert module.alpha == 3.0
    assert torch.equal(module.get("up"), PAIR[f"{KEY}.lora_up.weight"])
    (tmp_path / "folder").mkdir()
    torch.save(PEFT, tmp_path / "folder/adapter_model.bin")
    (tmp_path / "folder/adapter_config.json").write_text('{"lora_alpha": 6}')
    assert read_lora(tmp_path / "folder").modules[0].alpha == 6.0


@pytest.mark.parametrize("end", ["oft_blocks", "a1.weight", "boft_blocks", "reshape_weight", "lora_B.bias"])
def test_kinds_that_are_not_supported_are_named(end):
    with pytest.raises(ValueError, match=rf"{KEY}\.{end} is of a kind"):
        parse_lora(PAIR | {f"{KEY}.{end}": torch.ones(2)}, "x")


def test_one_module_under_two_names_is_an_error():
    with pytest.raises(ValueError, match=r"mean the same module"):
        parse_lora(PAIR | {f"unet.{key}": tensor for key, tensor in PEFT.items()}, "x")


def test_keys_of_nothing_known_are_listed():
    assert parse_lora(PAIR | {"bundle_emb.cat.clip_l": torch.ones(1)}, "x").ignored == ("bundle_emb.cat.clip_l",)
