import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion.convert import convert
from diffusion.family.layout import modern_vae_names
from diffusion.files import ALLOW
from diffusion.loading import open_checkpoint
from diffusion.loading import open_unet as open_denoiser
from diffusion.memory import TorchDevice
from diffusion.process import Process


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_folder_opens_as_references(folder):
    model, clip, vae = open_checkpoint(folder)
    assert [v.weights.part for v in (model, clip, vae)] == ["unet", "text", "vae"]
    assert {v.weights.family for v in (model, clip, vae)} == {"sd1"}
    assert {v.weights.source for v in (model, clip, vae)} == {str(folder.resolve())}
    assert model.process.prediction == "epsilon"
    assert open_checkpoint(str(folder))[0].weights == model.weights


def test_the_scheduler_tells_the_process(copy):
    edit(copy / "scheduler/scheduler_config.json", prediction_type="v_prediction", rescale_betas_zero_snr=True, beta_schedule="linear")
    process = open_checkpoint(copy)[0].process
    assert (process.prediction, process.zero_terminal_snr, process.beta_schedule) == ("v_prediction", True, "linear")


def test_a_scheduler_of_karras_kind_tells_levels(copy):
    edit(copy / "scheduler/scheduler_config.json", _class_name="EDMEulerScheduler", prediction_type="v_prediction", sigma_max=120.0)
    assert open_checkpoint(copy)[0].process == Process("v_prediction", levels=(0.002, 120.0), sigma_data=0.5)
    edit(copy / "scheduler/scheduler_config.json", prediction_type="epsilon", sigma_data=1.0)
    assert open_checkpoint(copy)[0].process == Process("edm", levels=(0.002, 120.0), sigma_data=1.0)


def test_a_network_of_other_inputs_is_refused(copy):
    edit(copy / "unet/config.json", in_channels=5)
    with pytest.raises(ValueError, match="8 or 9 input channels is wanted, 5 found"):
        open_checkpoint(copy)


def test_a_denoiser_alone_opens_from_a_folder(copy):
    for part in ("vae", "text_encoder", "tokenizer"):
        shutil.rmtree(copy / part)
    model = open_denoiser(copy)
    device = TorchDevice("cpu", 2**30)
    with device.weights(model.weights) as whole, device.weights(open_denoiser(copy, "float8_e4m3fn").weights) as rounded:
        pairs = list(zip(whole.parameters(), rounded.parameters(), strict=True))
        assert all(torch.equal(a.to(torch.float8_e4m3fn).to(a.dtype), b) for a, b in pairs)
    shutil.rmtree(copy / "scheduler")
    assert open_denoiser(copy).process == model.process
    (copy / "unet/config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"unet/config\.json wanted"):
        open_denoiser(copy)


def test_the_fingerprint_changes_with_the_files(copy):
    before = open_checkpoint(copy)
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "conv_out.bias": torch.zeros(4)}, file, {"now": "longer"})
    after = open_checkpoint(copy)
    assert after[0].weights != before[0].weights
    assert after[1].weights == before[1].weights


@pytest.mark.parametrize("missing", ["unet/config.json", "vae/config.json", "text_encoder/config.json", "tokenizer"])
def test_what_is_missing_is_named(copy, missing):
    path = copy / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError, match=missing):
        open_checkpoint(copy)


def test_what_is_no_folder_is_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError):
        open_checkpoint(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="not a safetensors file"):
        open_checkpoint(folder / "model_index.json")


@pytest.mark.parametrize(
    ("file", "changes", "wanted"),
    [
        ("unet/config.json", {"_class_name": "Transformer2DModel"}, "UNet2DConditionModel is wanted"),
        ("unet/config.json", {"addition_embed_type": "text_time"}, "text_time"),
        ("unet/config.json", {"cross_attention_dim": 768}, "768.*32"),
        ("text_encoder/config.json", {"architectures": ["T5EncoderModel"]}, "CLIPTextModel is wanted"),
        ("vae/config.json", {"latent_channels": 16}, "AutoencoderKL with 4"),
        ("vae/config.json", {"scaling_factor": 0.13025}, "factor and scale"),
        ("scheduler/scheduler_config.json", {"trained_betas": [0.1]}, "trained_betas"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "prediction"),
    ],
)
def test_other_architectures_are_refused_with_the_reason(copy, file, changes, wanted):
    edit(copy / file, **changes)
    with pytest.raises(ValueError, match=wanted):
        open_checkpoint(copy)


def test_a_broken_configuration_is_named(copy):
    (copy / "unet/config.json").write_text("{")
    with pytest.raises(ValueError, match=r"unet/config\.json"):
        open_checkpoint(copy)


def open_unet(folder):
    return TorchDevice("cpu", 2**30).weights(open_checkpoint(folder)[0].weights)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model", "diffusion_pytorch_model.fp16"])
def test_pickled_weights_are_opened_only_when_allowed(copy, name, monkeypatch):
    monkeypatch.delenv(ALLOW, raising=False)
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    torch.save(tensors, copy / "unet" / f"{name}.bin")
    file.unlink()
    with pytest.raises(ValueError, match=rf"unet: {name}\.bin: .*--allow-pickle.*diffusion\.convert {name}\.bin"):
        open_checkpoint(copy)
    monkeypatch.setenv(ALLOW, "1")
    with open_unet(copy) as unet:
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in unet.state_dict().items())
    monkeypatch.delenv(ALLOW)
    convert(copy / "unet" / f"{name}.bin")  # what the error says
    with open_unet(copy) as unet:
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in unet.state_dict().items())


def test_pickled_shards_load_where_allowed_and_once_they_are_converted(copy, monkeypatch):
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    names = sorted(tensors)
    index = {name: f"diffusion_pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(names)}
    for shard in set(index.values()):
        torch.save({name: tensors[name] for name in names if index[name] == shard}, copy / "unet" / shard)
    (copy / "unet/diffusion_pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    file.unlink()
    monkeypatch.setenv(ALLOW, "1")
    with open_unet(copy) as unet:
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in unet.state_dict().items())
    monkeypatch.delenv(ALLOW)
    for shard in sorted(set(index.values())):
        with pytest.raises(ValueError, match=rf"diffusion\.convert {shard}"), open_unet(copy):
            pass
        convert(copy / "unet" / shard)
    with open_unet(copy) as unet:
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in unet.state_dict().items())


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_part_without_weights_or_with_a_truncated_file_is_named_on_opening(copy, part):
    (file,) = (copy / part).glob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=f"copy/{part}: {file.name}: the file is truncated"):
        open_checkpoint(copy)
    file.rename(file.with_name("other.safetensors"))
    with pytest.raises(FileNotFoundError, match=rf"copy/{part}: weights as safetensors are wanted.*other\.safetensors found"):
        open_checkpoint(copy)


def test_shards_and_half_precision_files_load(copy):
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, mine in shards.items():
        save_file({name: tensors[name] for name in mine}, copy / "unet" / shard)
    file.unlink()
    index = {"weight_map": {name: shard for shard, mine in shards.items() for name in mine}}
    (copy / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with open_unet(copy) as unet:
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in unet.state_dict().items())
    for stale in (copy / "unet").glob("*.index.json"):
        stale.unlink()
    save_file({name: tensor.half() for name, tensor in tensors.items()}, copy / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    with open_unet(copy) as unet:
        assert unet.dtype == torch.float32
        assert all(torch.equal(tensor, tensors[name].half().float()) for name, tensor in unet.state_dict().items())


def test_an_index_that_leads_out_of_its_folder_is_refused(copy):
    (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    index = {"weight_map": {"conv_in.weight": "../vae/diffusion_pytorch_model.safetensors"}}
    (copy / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="plain file names"), open_unet(copy):
        pass
    (copy / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"index\.json: a weight_map"):
        open_checkpoint(copy)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_weights_that_do_not_fit_are_named(copy, change):
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    if change == "missing":
        del tensors["conv_in.weight"]
    elif change == "unknown":
        tensors["conv_in.other"] = torch.zeros(1)
    else:
        tensors["conv_in.weight"] = torch.zeros(1, 2)
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"conv_in\.(weight|other)"):
        open_checkpoint(copy)


def test_loading_moves_no_global_random_state(folder):
    model, clip, vae = open_checkpoint(folder)
    device = TorchDevice("cpu", 2**30)
    state = torch.get_rng_state()
    for value in (model, clip, vae):
        with device.weights(value.weights):
            pass
    assert torch.equal(torch.get_rng_state(), state)


def test_a_file_rewritten_in_place_does_not_reach_a_loaded_module(copy):
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    with open_unet(copy) as unet:
        before = unet.conv_in.weight.clone()
        with open(file, "r+b") as raw:
            raw.seek(-2000, 2)
            raw.write(b"\0" * 2000)
        assert torch.equal(unet.conv_in.weight, before)
        assert all(torch.isfinite(tensor).all() for tensor in unet.state_dict().values())


def test_old_names_of_attention_in_vaes():
    old = {
        "encoder.mid_block.attentions.0.proj_attn.weight": torch.zeros(1),
        "decoder.mid_block.attentions.0.query.bias": torch.zeros(1),
        "conv.key.x": torch.zeros(1),
    }
    assert set(modern_vae_names(old)) == {
        "encoder.mid_block.attentions.0.to_out.0.weight",
        "decoder.mid_block.attentions.0.to_q.bias",
        "conv.key.x",
    }
