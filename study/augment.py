"""Random changes to a batch of images, a different draw for each image, on the device the batch is on."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from study.config import Augmentation

# Area and aspect ratio of the erased rectangle: torchvision's ranges, after Zhong et al. 2020, "Random erasing",
# arXiv:1708.04896.
ERASED_AREA = (0.02, 0.33)
ERASED_ASPECT = (0.3, 3.3)
# At the nearest pixel, as torchvision's RandomRotation and RandomAffine do by default, and so the source did. To mix
# neighbours would blur, and images that are not augmented are not blurred.
SAMPLED = "nearest"


def augment(images: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Return the images rotated, translated, scaled, sheared, flipped, cropped and erased, each by its own draw.

    `images`: float (N, 1, H, W), background 0; what moves in from outside is 0, or with `reflect` what a crop mirrors.
    The settings' maxima and probabilities are multiplied by `strength`; strength 0 returns `images` itself. `generator`
    lives on the images' device.

    One affine map an image, p' = T · R(angle) · Shear · scale · Flip · p about the centre. torchvision's RandomRotation
    and RandomAffine sample twice and shift by whole pixels: so does `whole_pixels`.
    """
    s = settings.strength
    if s == 0:
        return images
    if any((settings.rotation, settings.translation, settings.scale, settings.shear)):
        images = _affine(images, s, settings, generator)
    elif settings.flip:
        draw = torch.rand(len(images), generator=generator, device=images.device)
        images = torch.where((draw < s * settings.flip)[:, None, None, None], images.flip(-1), images)
    if crop := round(s * settings.crop):
        shifts = torch.randint(-crop, crop + 1, (2, len(images)), generator=generator, device=images.device)
        images = shifted(images, shifts, crop, "reflect" if settings.reflect else "constant")
    if settings.erasing > 0:
        images = _erase(images, s * settings.erasing, generator)
    return images


def shifted(images: Tensor, shifts: Tensor, most: int, padding: str = "constant") -> Tensor:
    """Return the images moved right and down by `shifts`, whole pixels (2, N) from -`most` to `most`.

    As a random crop of the padded image (He et al. 2016, arXiv:1512.03385, section 4.2). `padding` is "constant" for
    black, or "reflect".
    """
    height, width = images.shape[2:]
    padded = functional.pad(images, (most,) * 4, mode=padding)
    device = images.device
    rows = torch.arange(height, device=device) + most - shifts[1, :, None]
    columns = torch.arange(width, device=device) + most - shifts[0, :, None]
    number = torch.arange(len(images), device=device)
    return padded[number[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _affine(images: Tensor, s: float, settings: Augmentation, generator: torch.Generator) -> Tensor:
    draw = torch.rand(6, len(images), generator=generator, device=images.device)
    signed = s * (2 * draw - 1)
    angle = signed[0] * math.radians(settings.rotation)
    shift = 2 * signed[1:3] * settings.translation  # a grid's side is 2 long
    scale = 1 + signed[3] * settings.scale
    shear = torch.tan(signed[4] * math.radians(settings.shear))
    mirror = 1 - 2 * (draw[5] < s * settings.flip).float()
    cos, sin = torch.cos(angle), torch.sin(angle)
    # `affine_grid` asks where an output pixel comes from: the inverse of the map, Flip · Shear⁻¹ · R⁻¹ / scale.
    row_x = mirror * torch.stack((cos + shear * sin, sin - shear * cos)) / scale
    row_y = torch.stack((-sin, cos)) / scale
    linear = torch.stack((row_x, row_y))  # (2, 2, N)
    pixels = torch.zeros_like(shift) if settings.whole_pixels else shift
    offset = -(linear * pixels).sum(1, keepdim=True)
    theta = torch.cat((linear, offset), 1).permute(2, 0, 1)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    images = functional.grid_sample(images, grid, mode=SAMPLED, align_corners=False)
    if settings.whole_pixels:
        side = images.shape[-1]
        images = shifted(images, (shift * side / 2).round().long(), math.ceil(settings.translation * side))
    return images


def _erase(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    n, _, height, width = images.shape
    draw = torch.rand(5, n, generator=generator, device=images.device)
    area = (ERASED_AREA[0] + draw[0] * (ERASED_AREA[1] - ERASED_AREA[0])) * height * width
    aspect = torch.exp(math.log(ERASED_ASPECT[0]) + draw[1] * math.log(ERASED_ASPECT[1] / ERASED_ASPECT[0]))
    h = torch.sqrt(area * aspect).clamp(max=height)
    w = torch.sqrt(area / aspect).clamp(max=width)
    top, left = draw[2] * (height - h), draw[3] * (width - w)
    ys = torch.arange(height, device=images.device) + 0.5
    xs = torch.arange(width, device=images.device) + 0.5
    inside_y = (ys >= top[:, None]) & (ys < (top + h)[:, None])
    inside_x = (xs >= left[:, None]) & (xs < (left + w)[:, None])
    hit = (draw[4] < probability)[:, None, None]
    erased = (inside_y[:, :, None] & inside_x[:, None, :] & hit)[:, None]
    return images.masked_fill(erased, 0.0)
