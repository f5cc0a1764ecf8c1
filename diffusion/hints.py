"""Pictures for control networks, computed from pictures and masks alone. Images are [b, h, w, 3] floats in 0..1."""

from __future__ import annotations

import colorsys
import math
import re

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.image import resize_image

LUMA = (0.299, 0.587, 0.114)
# the colours in which segment maps of ADE20K's 150 classes are customarily drawn, in the order of the classes
ADE20K = re.findall(
    "[0-9a-f]{6}",
    """
    787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d 787846 08ff33
    ff0652 8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0 0907e6 dcdcdc ff095c 7009ff
    08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06 ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff
    eb0cff a09614 00a3ff 8c8c8c fa0a0f 14ff00 1fff00 ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff
    0bc8c8 ff5200 00fff5 003dff 00ff70 00ff85 ff0000 ffa300 ff6600 c2ff00 008fff 33ff00 0052ff 00ff29 00ffad
    0a00ff adff00 00ff99 ff5c00 ff00ff ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2
    00ff52 000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00 08b8aa
    8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070 5cff00 00e0ff 70e0ff 46b8a0 a300ff 9900ff 47ff00 ff00a3
    ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 0abed4 d6ff00 00ccff 1400ff ffff00 0099ff 0029ff
    00ffcc 2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8 005cff b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
    """,
)


def brightness(image: Tensor) -> Tensor:
    """Luma [b, h, w] (ITU-R BT.601)."""
    return image @ torch.tensor(LUMA, dtype=image.dtype, device=image.device)


def canny(image: Tensor, low: float, high: float) -> Tensor:
    """Edges of one pixel, white on black.

    Canny 1986: blur (σ = 1), slopes, only the steepest point across an edge, and of these the ones above `high` with all above `low` that
    hang together with them. Slopes are Sobel's of brightness in 0..1, so the steepest is about 4: the units of ComfyUI's node.
    Raises ValueError unless low <= high.
    """
    if low > high:
        raise ValueError(f"low_threshold: at most the high_threshold {high} is wanted, {low} given")
    gray = brightness(image.float())[:, None]
    line = torch.exp(-(torch.arange(-2.0, 3.0, device=gray.device) ** 2) / 2)
    line = line / line.sum()
    padded = F.pad(gray, (2, 2, 2, 2), mode="reflect") if min(gray.shape[2:]) > 2 else F.pad(gray, (2, 2, 2, 2), mode="replicate")
    smooth = F.conv2d(F.conv2d(padded, line.view(1, 1, 5, 1)), line.view(1, 1, 1, 5))
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=gray.device)
    slope = F.conv2d(F.pad(smooth, (1, 1, 1, 1), mode="replicate"), torch.stack((sobel, sobel.T))[:, None])
    steep = (slope.square().sum(1, keepdim=True) + 1e-6).sqrt()
    way = (torch.atan2(slope[:, 1:], slope[:, :1]) / (math.pi / 4)).round().long() % 8
    above = torch.cat([steep - _neighbour(steep, dy, dx) for dy, dx in _WAYS], dim=1)
    top = torch.minimum(above.gather(1, way), above.gather(1, (way + 4) % 8)) > 0
    steep = steep * top
    weak, strong = steep > low, steep > high
    while True:
        more = weak & (F.max_pool2d(strong.float(), 3, 1, 1) > 0) | strong
        if torch.equal(more, strong):
            return strong[:, 0, :, :, None].float().expand(-1, -1, -1, 3).contiguous()
        strong = more


_WAYS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))  # (down, right), by eighths of a turn


def _neighbour(x: Tensor, dy: int, dx: int) -> Tensor:
    """At each place what lies so many cells below and to the right; 0 outside."""
    h, w = x.shape[2:]
    return F.pad(x, (1, 1, 1, 1))[:, :, 1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w]


def scribble(image: Tensor, thickness: int) -> Tensor:
    """Strokes of about this many pixels along the lines of a picture of edges, corners rounded."""
    lines = (brightness(image.float()) > 0.5).float()[:, None]
    half = thickness / 2
    reach = math.ceil(half)
    along = torch.arange(-reach, reach + 1, device=image.device)
    disc = ((along[:, None] ** 2 + along[None, :] ** 2) <= half**2).float()[None, None]
    grown = (F.conv2d(lines, disc, padding=reach) > 0.5).float()
    side = reach | 1
    rounded = F.avg_pool2d(F.pad(grown, (side // 2,) * 4, mode="replicate"), side, 1) > 0.5
    strokes = torch.maximum(rounded.float(), lines)
    return strokes[:, 0, :, :, None].expand(-1, -1, -1, 3).contiguous()


def segment_map(masks: Tensor, palette: str, first: int) -> Tensor:
    """One picture [1, h, w, 3] of masks [n, h, w], each in its colour, later ones on top; masks count from one half on."""
    out = torch.zeros(1, *masks.shape[1:], 3, device=masks.device)
    for i, mask in enumerate(masks):
        out[0][mask >= 0.5] = torch.tensor(segment_color(palette, first + i), device=masks.device)
    return out


def segment_color(palette: str, number: int) -> tuple[float, float, float]:
    """The colour of a segment, red, green and blue in 0..1; numbers beyond a palette start over."""
    if palette == "ade20k":
        value = int(ADE20K[number % len(ADE20K)], 16)
        return (value >> 16) / 255, (value >> 8 & 255) / 255, (value & 255) / 255
    if palette == "distinct":
        # hues a golden section apart never come close to one another again
        return colorsys.hsv_to_rgb(number * 0.618033988749895 % 1, 1 - 0.35 * (number // 8 % 2), 1 - 0.3 * (number // 16 % 2))
    raise ValueError(f"palette: ade20k or distinct is wanted, {palette!r} given")


def tile(image: Tensor, cell: int, enlarge: str) -> Tensor:
    """The picture from means of about cell × cell pixels, enlarged to its size again."""
    h, w = image.shape[1:3]
    small = resize_image(image, max(1, round(w / cell)), max(1, round(h / cell)), "area")
    return resize_image(small, w, h, enlarge).clamp(0, 1)


def depth(image: Tensor, invert: bool) -> Tensor:
    """Brightness stretched to 0..1 in each picture, 0 everywhere where it does not vary."""
    value = brightness(image.float())
    low, high = value.amin((1, 2), keepdim=True), value.amax((1, 2), keepdim=True)
    value = (value - low) / (high - low).clamp(min=1e-6)
    value = (1 - value) * (high > low) if invert else value
    return value[..., None].expand(-1, -1, -1, 3).contiguous()


def normals(image: Tensor, strength: float, threshold: float) -> tuple[Tensor, Tensor]:
    """Normals of a depth map (white near) as colours, (n + 1) / 2, and what is nearer than the threshold [b, h, w].

    Slopes are Sobel's per pixel times the longer side over 2, so that they do not depend on the resolution. Raises ValueError for pictures
    below 2 × 2.
    """
    h, w = image.shape[1:3]
    if min(h, w) < 2:
        raise ValueError(f"at least 2 × 2 pixels are wanted, {w} × {h} given")
    z = depth(image, False)[..., 0]
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=image.device) / 8
    slope = F.conv2d(F.pad(z[:, None], (1, 1, 1, 1), mode="replicate"), torch.stack((sobel, sobel.T))[:, None])
    near = (z >= threshold).float()
    slope = slope * near[:, None] * (strength * max(h, w) / 2 / math.tau)
    # depth grows towards the eye: a surface that rises to the right faces left; rows count downwards, green points up
    normal = torch.stack((-slope[:, 0], slope[:, 1], torch.ones_like(z)), dim=-1)
    return F.normalize(normal, dim=-1) / 2 + 0.5, near
