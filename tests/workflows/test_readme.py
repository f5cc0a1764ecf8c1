"""What the README shows runs as it stands there, from an empty folder."""

import re
from pathlib import Path

import torch

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_lines_of_python_make_a_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"## A dozen lines of Python\n+```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    pixels = names["pixels"]
    assert isinstance(pixels, torch.Tensor)
    assert pixels.shape == (1, 128, 128, 3)
    red, green, blue = pixels[0, :, :, 0], pixels[0, :, :, 1], pixels[0, :, :, 2]
    star = (red > 0.6) & (green < 0.4) & (blue < 0.4)
    assert star[:, :64].float().mean() > 0.05 > star[:, 96:].float().mean()
    assert names["noise_free"].x.shape == (1, 4, 16, 16)
