import weakref
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from diffusion.memory import TorchDevice, open_device
from diffusion.values import WeightsRef

KB = 1024


def ref(name: str, dtype: str | None = None, part: str = "unet") -> WeightsRef:
    return WeightsRef("sd1", f"/{name}", part, "0", dtype)


class Loader:
    """Makes modules of 4 kB and remembers how often."""

    def __init__(self):
        self.loaded = []

    def __call__(self, ref, dtype):
        self.loaded.append((ref.source[1:], dtype))
        return nn.Linear(32, 32, bias=False)


@dataclass
class Results:
    """A tenant such as the engine's result cache."""

    held: int
    asked: list[int] = field(default_factory=list)

    def shed(self, bytes: int) -> int:
        self.asked.append(bytes)
        freed = min(bytes, self.held)
        self.held -= freed
        return freed

    def residents(self):
        return [("results", self.held)]


@pytest.fixture
def loader():
    return Loader()


def names(device):
    return [name for name, _ in device.residents()]


def test_weights_stay_for_the_next_session(loader):
    device = TorchDevice("cpu", 100 * KB, load=loader)
    with device.weights(ref("a")) as first:
        assert not any(p.requires_grad for p in first.parameters())
        assert not first.training
    with device.weights(ref("a")) as second:
        assert second is first
    assert loader.loaded == [("a", torch.float32)]
    assert device.residents() == [("unet of a", 4 * KB)]


def test_the_least_recently_used_leave_when_room_is_wanted(loader):
    device = TorchDevice("cpu", 9 * KB, load=loader)
    for name in "aba":
        with device.weights(ref(name)):
            pass
    with device.weights(ref("c")):
        assert names(device) == ["unet of a", "unet of c"]
    with device.weights(ref("b")):
        pass
    assert [name for name, _ in loader.loaded] == ["a", "b", "c", "b"]


def test_open_weights_are_never_taken(loader):
    device = TorchDevice("cpu", 5 * KB, load=loader)
    with device.weights(ref("a")) as module, device.weights(ref("b")):
        assert device.shed(100 * KB) == 0
        device.reserve(100 * KB)
        with pytest.raises(RuntimeError, match="another session"), device.weights(ref("a")):
            pass
        kept = weakref.ref(module)
    assert kept() is not None
    del module
    assert device.shed(100 * KB) == 8 * KB
    assert kept() is None
    assert device.residents() == []


def test_weights_are_released_when_a_session_fails(loader):
    device = TorchDevice("cpu", 100 * KB, load=loader)
    with pytest.raises(KeyboardInterrupt), device.weights(ref("a")):
        raise KeyboardInterrupt
    with device.weights(ref("a")):
        pass
    assert device.shed(1) == 4 * KB


def test_a_load_that_fails_leaves_nothing(loader):
    def broken(ref, dtype):
        raise OSError("disk")

    device = TorchDevice("cpu", 100 * KB, load=broken)
    for _ in range(2):
        with pytest.raises(OSError, match="disk"), device.weights(ref("a")):
            pass
    assert device.residents() == []


def test_results_are_asked_before_weights(loader):
    device = TorchDevice("cpu", 20 * KB, load=loader)
    results = Results(14 * KB)
    device.add_tenant(results)
    with device.weights(ref("a")):
        pass
    assert results.asked == []
    device.reserve(6 * KB)
    assert results.asked == [4 * KB]
    assert names(device) == ["results", "unet of a"]
    device.reserve(20 * KB)
    assert results.held == 0
    assert names(device) == ["results"]


def test_reserving_within_the_budget_moves_nothing(loader):
    device = TorchDevice("cpu", 20 * KB, load=loader)
    results = Results(10 * KB)
    device.add_tenant(results)
    device.reserve(10 * KB)
    assert results.asked == []


@pytest.mark.parametrize(
    ("dtype", "kind", "part", "wanted"),
    [
        (None, "cpu", "unet", torch.float32),
        ("bfloat16", "cpu", "unet", torch.bfloat16),
        (None, "cuda", "unet", torch.float16),
        (None, "cuda", "text", torch.float16),
        (None, "cuda", "vae", torch.float32),
        ("float32", "cuda", "unet", torch.float32),
    ],
)
def test_dtype_follows_the_device_unless_asked_for(dtype, kind, part, wanted):
    from diffusion.memory import _dtype

    assert _dtype(ref("a", dtype, part), torch.device(kind)) == wanted


def test_an_unknown_dtype_is_refused(loader):
    with pytest.raises(ValueError, match="dtype"), TorchDevice("cpu", KB, load=loader).weights(ref("a", "int8")):
        pass


def test_what_out_of_memory_looks_like():
    device = TorchDevice("cpu", KB)
    assert device.is_oom(torch.OutOfMemoryError("CUDA out of memory"))
    assert device.is_oom(MemoryError())
    assert not device.is_oom(RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError) as problem:
        torch.empty(2**60, dtype=torch.uint8)
    assert device.is_oom(problem.value)


def test_tensors_come_back_from_disk_bit_for_bit(tmp_path):
    device = TorchDevice("cpu", KB)
    base = torch.arange(12.0).view(3, 4)
    tensors = {
        "a": base,
        "view": base.t(),
        "same": base,
        "half": torch.rand(3).half(),
        "mask": torch.tensor([True, False]),
        "none": torch.zeros(0, 4),
    }
    device.save_tensors(tmp_path / "x.safetensors", tensors)
    again = device.load_tensors(tmp_path / "x.safetensors")
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensor) and again[name].dtype == tensor.dtype for name, tensor in tensors.items())


def test_moves_copy_nothing_where_nothing_moves():
    device = TorchDevice("cpu", KB)
    x = torch.zeros(3)
    assert device.to_device(x) is x
    assert device.to_host(x) is x
    assert device.nbytes(x) == 12


def test_seeds_mean_the_same_again():
    device = TorchDevice("cpu", KB)
    a, b = (torch.randn(3, generator=device.generator(2**64 - 1)) for _ in range(2))
    assert torch.equal(a, b)


def test_the_environment_names_versions_and_kind():
    assert torch.__version__.split("+")[0] in TorchDevice("cpu", KB).environment
    assert TorchDevice("cpu", KB).environment.startswith("cpu")


def test_devices_open_by_name():
    assert open_device("cpu", 7).budget == 7
    assert open_device("cpu").budget > 2**26
    assert open_device().name
    for name in ("toaster", "meta:x", "cuda:99"):
        with pytest.raises(ValueError, match=name):
            open_device(name)


def test_unloading_takes_all_but_what_is_open(loader):
    device = TorchDevice("cpu", 100 * KB, load=loader)
    with device.weights(ref("a")):
        pass
    with device.weights(ref("b")):
        device.unload()
        assert names(device) == ["unet of b"]
    device.unload()
    assert names(device) == []
    with device.weights(ref("a")) as again:
        assert next(again.parameters()).device.type == "cpu"


def test_a_device_knows_its_memory():
    facts = TorchDevice("cpu").facts()
    assert (facts.name, facts.type, facts.index) == ("cpu", "cpu", 0)
    assert 0 < facts.free <= facts.total
