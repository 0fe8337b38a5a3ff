"""Images under quarter turns, flips and shifts: group convolutions in plain torch, pooling, resampling, borders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verdicts.actions import along, field, first, fixed, pixels, pseudoscalar, rolled
from verdicts.entry import BROKEN, LATENT, SOUND, Action, Entry, told
from verdicts.parts import (
    made,
    mlp,
    normal,
    parameter,
    plain,
)

SIZE = 9


def image(
    name: str,
    make: Callable[[], nn.Module],
    carry: Action = fixed,
    fault: str = "",
    *,
    group: str = "C(4)",
    size: int = SIZE,
    channels: int = 1,
    label: str = "",
    **more: Any,
) -> Entry:
    """A model of a batch of three images."""
    label = label or (BROKEN if fault else SOUND)
    given = {"inputs": normal((3, channels, size, size)), "label": label, "fault": fault, "move": first(pixels)}
    return Entry(name, group, make, carry=carry, **(given | more))


def averaged(kernel: Tensor, flips: bool = False) -> Tensor:
    """The mean over quarter turns, and over flips."""
    turned = sum(kernel.rot90(k, (-2, -1)) for k in range(4)) / 4
    return (turned + turned.flip(-1)) / 2 if flips else turned


def symmetric(self: nn.Module, x: Tensor) -> Tensor:
    return F.conv2d(x, averaged(self.kernel, flips=True), padding=1)


def kernel(*shape: int) -> Callable[[], nn.Parameter]:
    return lambda: parameter(*shape)


def convolution(*arguments: int, **more: Any) -> Callable[[], nn.Module]:
    return made(nn.Conv2d, *arguments, **more)


def lifted(x: Tensor, weight: Tensor) -> Tensor:
    """[B, C, H, W] to [B, C', 4, H, W]: the kernel in all its turns (Cohen and Welling 2016)."""
    bank = torch.stack([weight.rot90(k, (-2, -1)) for k in range(4)], 1)
    return F.conv2d(x, bank.flatten(0, 1), padding=1).unflatten(1, (len(weight), 4))


def p4(x: Tensor, weight: Tensor) -> Tensor:
    """[B, C, 4, H, W] to [B, C', 4, H, W]; weight [C', C, 4, 3, 3]."""
    bank = torch.stack([weight.roll(k, 2).rot90(k, (-2, -1)) for k in range(4)], 1)
    return F.conv2d(x.flatten(1, 2), bank.flatten(0, 1).flatten(1, 2), padding=1).unflatten(1, (len(weight), 4))


def group_cnn(head: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return head(p4(torch.relu(lifted(x, self.first)), self.second))

    return plain(forward, first=kernel(4, 1, 3, 3), second=kernel(5, 4, 4, 3, 3))


def orientations(g: Tensor, value: Tensor) -> Tensor:
    """Pixels that move, and four orientations on axis -3 that are passed on."""
    quarters = round(float(torch.atan2(g[1, 0], g[0, 0])) / (torch.pi / 2))
    return pixels(g, value.roll(quarters, -3))


SOBEL = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])


def gradient(x: Tensor) -> Tensor:
    """d/dx and d/dy, y upwards."""
    kernels = torch.stack([SOBEL, SOBEL.rot90(1)])[:, None].to(x)
    return F.conv2d(x, kernels, padding=1)


def divergence(self: nn.Module, x: Tensor) -> Tensor:
    return gradient(x[:, :1])[:, :1] + gradient(x[:, 1:])[:, 1:]


def curl(self: nn.Module, x: Tensor) -> Tensor:
    return gradient(x[:, 1:])[:, :1] - gradient(x[:, :1])[:, 1:]


def coordinates(size: int) -> Tensor:
    """x to the right and y upwards, from the centre: [2, size, size]."""
    line = torch.arange(size) - (size - 1) / 2
    return torch.stack([line.expand(size, size), -line[:, None].expand(size, size)])


def soft_argmax(self: nn.Module, x: Tensor) -> Tensor:
    heat = symmetric(self, x).flatten(1).softmax(-1)
    return heat @ coordinates(x.shape[-1]).flatten(1).to(x).mT


def blurred(x: Tensor, size: int, stride: int, padding: int) -> Tensor:
    line = torch.ones(size).to(x) if size < 4 else torch.tensor([1.0, 3.0, 3.0, 1.0]).to(x)
    weight = (line[:, None] * line)[None, None].expand(x.shape[1], 1, size, size)
    return F.conv2d(x, weight, stride=stride, padding=padding, groups=x.shape[1])


def pooled(function: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    """Symmetric convolution, a way of pooling, and the mean over pixels of what comes of it."""
    return plain(
        lambda self, x: self.head(torch.relu(function(symmetric(self, x))).mean((2, 3))),
        kernel=kernel(4, 1, 3, 3),
        head=made(nn.Linear, 4, 3),
    )


def resized(function: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    return plain(lambda self, x: function(torch.relu(symmetric(self, x))), kernel=kernel(4, 1, 3, 3))


def patches(self: nn.Module, x: Tensor) -> Tensor:
    tokens = self.embed(x).flatten(2).mT
    return self.head((torch.softmax(tokens @ tokens.mT, -1) @ tokens).mean(1))


def identity() -> nn.Module:
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight)
    return conv


def attend(tokens: Tensor) -> Tensor:
    return torch.softmax(tokens @ tokens.mT, -1) @ tokens


FIELD = field()

CIRCULAR = {"padding": 1, "padding_mode": "circular", "bias": True}

TURNS = (
    image("symmetric kernels", plain(lambda self, x: torch.relu(symmetric(self, x)), kernel=kernel(4, 1, 3, 3)), pixels),
    image(
        "symmetric kernels under flips",
        plain(lambda self, x: torch.relu(symmetric(self, x)), kernel=kernel(4, 1, 3, 3)),
        pixels,
        group="D(4)",
    ),
    image(
        "turned kernels under turns",
        plain(lambda self, x: F.conv2d(x, averaged(self.kernel), padding=2).relu().mean((2, 3)), kernel=kernel(4, 1, 5, 5)),
    ),
    image("group convolutions, pooled", group_cnn(lambda y: torch.relu(y).amax(2).mean((2, 3)))),
    image("group convolutions, a map", group_cnn(lambda y: y.amax(2)), pixels),
    image("group convolutions, orientations", group_cnn(lambda y: y), orientations),
    image("gradients of images", plain(lambda self, x: gradient(symmetric(self, x)), kernel=kernel(1, 1, 3, 3)), FIELD),
    image(
        "gradients of images under flips",
        plain(lambda self, x: gradient(symmetric(self, x)), kernel=kernel(1, 1, 3, 3)),
        FIELD,
        group="D(4)",
    ),
    told(image("divergence of a flow", plain(divergence), pixels, channels=2, group="D(4)", move=first(FIELD))),
    told(image("curl of a flow", plain(curl), pixels, channels=2, move=first(FIELD))),
    told(
        image(
            "curl of a flow, a pseudoscalar",
            plain(curl),
            lambda g, y: pixels(g, pseudoscalar(g, y)),
            channels=2,
            group="D(4)",
            move=first(FIELD),
        ),
        output=True,
    ),
    told(
        image(
            "a flow gated by its speed",
            plain(lambda self, x: x * x.norm(dim=1, keepdim=True).sigmoid()),
            FIELD,
            channels=2,
            move=first(FIELD),
        )
    ),
    image("soft argmax, y upwards", plain(soft_argmax, kernel=kernel(1, 1, 3, 3)), along(-1)),
    image("blur pooling that divides evenly", pooled(lambda y: blurred(y, 4, 2, 1)), size=8),
    image("stride two on an odd size", pooled(lambda y: blurred(y, 3, 2, 1))),
    image("max pooling that divides evenly", pooled(lambda y: F.max_pool2d(y, 2)), size=8),
    image("adaptive pooling", pooled(lambda y: F.adaptive_avg_pool2d(y, 4))),
    image("bilinear, centres kept", resized(lambda y: F.interpolate(y, scale_factor=2, mode="bilinear")), pixels),
    image(
        "bilinear, corners kept", resized(lambda y: F.interpolate(y, size=12, mode="bilinear", align_corners=True)), pixels
    ),
    image(
        "pixel shuffle of equal channels",
        resized(lambda y: F.pixel_shuffle(y.mean(1, keepdim=True).expand(-1, 4, -1, -1), 2)),
        pixels,
    ),
    image(
        "reflected borders",
        plain(lambda self, x: F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), averaged(self.kernel)), kernel=kernel(3, 1, 3, 3)),
        pixels,
    ),
    image("instance norm", plain(lambda self, x: F.instance_norm(symmetric(self, x)), kernel=kernel(4, 1, 3, 3)), pixels),
    image(
        "squeeze and excite",
        plain(
            lambda self, x: (y := symmetric(self, x)) * self.gate(y.mean((2, 3)))[..., None, None],
            kernel=kernel(4, 1, 3, 3),
            gate=lambda: mlp(4, 4),
        ),
        pixels,
    ),
    image(
        "attention between pixels",
        plain(
            lambda self, x: self.head(attend(symmetric(self, x).flatten(2).mT).mean(1)),
            kernel=kernel(4, 1, 3, 3),
            head=made(nn.Linear, 4, 3),
        ),
    ),
    image(
        "mask times distance from the centre",
        plain(lambda self, x: x * torch.exp(-coordinates(x.shape[-1]).square().sum(0) / 8).to(x)),
        pixels,
    ),
    image(
        "colours alone",
        plain(
            lambda self, x: self.head(torch.relu(self.mix(x)).mean((2, 3))),
            mix=convolution(3, 6, 1),
            head=made(nn.Linear, 6, 2),
        ),
        channels=3,
    ),
    image(
        "free kernel",
        plain(lambda self, x: torch.relu(self.conv(x)), conv=convolution(1, 4, 3, padding=1)),
        pixels,
        "conv:conv2d",
    ),
    image(
        "free kernel, pooled",
        plain(
            lambda self, x: self.head(torch.relu(self.conv(x)).mean((2, 3))),
            conv=convolution(1, 4, 3, padding=1),
            head=made(nn.Linear, 4, 3),
        ),
        fixed,
        "conv:conv2d",
    ),
    image(
        "turned kernels under flips",
        plain(
            lambda self, x: torch.relu(F.conv2d(x, averaged(self.kernel), padding=2)).square().mean((2, 3)),
            kernel=kernel(4, 1, 5, 5),
        ),
        fixed,
        ":conv2d",
        group="D(4)",
    ),
    image(
        "lifting without the last turn",
        plain(lambda self, x: lifted(x, self.first)[:, :, :3].amax(2), first=kernel(4, 1, 3, 3)),
        pixels,
        ":__getitem__ :amax",
    ),
    image(
        "orientations not passed on",
        plain(
            lambda self, x: F.conv2d(torch.relu(lifted(x, self.first)).flatten(1, 2), self.second).mean((2, 3)),
            first=kernel(2, 1, 3, 3),
            second=kernel(5, 8, 1, 1),
        ),
        fixed,
        ":conv2d",
    ),
    image("stride two on an even size", pooled(lambda y: blurred(y, 3, 2, 1)), fixed, ":conv2d", size=8),
    image("max pooling on an odd size", pooled(lambda y: F.max_pool2d(y, 2)), fixed, ":max_pool2d"),
    image("average pooling on an odd size", resized(lambda y: F.avg_pool2d(y, 2)), pixels, ":avg_pool2d"),
    image(
        "an even kernel that keeps the size",
        plain(
            lambda self, x: torch.relu(F.conv2d(x, averaged(self.kernel, flips=True), padding="same")),
            kernel=kernel(4, 1, 4, 4),
        ),
        pixels,
        ":conv2d",
    ),
    image(
        "more padding on one side",
        plain(
            lambda self, x: torch.relu(F.conv2d(F.pad(x, (0, 1, 0, 1)), averaged(self.kernel, flips=True))),
            kernel=kernel(4, 1, 2, 2),
        ),
        pixels,
        ":pad :conv2d",
    ),
    image(
        "flattened into a linear layer",
        plain(
            lambda self, x: self.head(symmetric(self, x).flatten(1)),
            kernel=kernel(2, 1, 3, 3),
            head=made(nn.Linear, 2 * SIZE * SIZE, 3),
        ),
        fixed,
        "head:linear",
    ),
    image(
        "a learned position on the pixels",
        plain(lambda self, x: torch.relu(x + self.place), place=kernel(1, SIZE, SIZE)),
        pixels,
        ":add",
    ),
    image(
        "coordinates as channels",
        plain(
            lambda self, x: (
                self.mix(torch.cat([x, coordinates(x.shape[-1]).to(x).expand(3, -1, -1, -1)], 1)).relu().mean((2, 3))
            ),
            mix=convolution(3, 4, 1),
        ),
        fixed,
        ":cat mix:conv2d",
    ),
    image("nearest pixels at another size", resized(lambda y: F.interpolate(y, size=5)), pixels, ":interpolate"),
    image("a crop beside the centre", resized(lambda y: y[..., :8, :8]), pixels, ":__getitem__"),
    image(
        "patches and attention",
        plain(patches, embed=convolution(1, 6, 3, stride=3), head=made(nn.Linear, 6, 3)),
        fixed,
        "embed:conv2d",
    ),
    image("rolled by one pixel", resized(lambda y: y.roll(1, -1)), pixels, ":roll"),
    image(
        "the brightest pixel's index",
        plain(lambda self, x: symmetric(self, x).flatten(2).argmax(-1), kernel=kernel(4, 1, 3, 3)),
        fixed,
        ":argmax",
    ),
    image(
        "rows recurrently",
        plain(lambda self, x: self.rnn(x.squeeze(1))[0][:, -1], rnn=made(nn.GRU, SIZE, 4, batch_first=True)),
        fixed,
        "rnn:gru",
    ),
    image("pixel shuffle of free channels", resized(lambda y: F.pixel_shuffle(y, 2)), pixels, ":pixel_shuffle"),
    image("axial means", plain(lambda self, x: self.head(x.amax(2).mean(-1)), head=lambda: mlp(1, 2)), fixed, ":amax"),
    told(image("a flow through relu", plain(lambda self, x: torch.relu(x)), FIELD, ":relu", channels=2, move=first(FIELD))),
    told(
        image(
            "a flow's first component",
            plain(lambda self, x: x[:, :1].square()),
            pixels,
            ":__getitem__",
            channels=2,
            move=first(FIELD),
        )
    ),
    image(
        "second derivatives with a sign lost",
        plain(lambda self, x: gradient(gradient(x)[:, :1])[:, :1] - gradient(gradient(x)[:, 1:])[:, 1:]),
        pixels,
        ":sub :__getitem__",
    ),
    told(
        image(
            "divergence with y downwards",
            plain(lambda self, x: gradient(x[:, :1])[:, :1] - gradient(x[:, 1:])[:, 1:]),
            pixels,
            ":sub :__getitem__",
            channels=2,
            move=first(FIELD),
        )
    ),
    image(
        "a position on the pixels that starts at zero",
        plain(lambda self, x: torch.relu(x + self.place), place=lambda: nn.Parameter(torch.zeros(1, SIZE, SIZE))),
        pixels,
        ":add",
        label=LATENT,
    ),
    image(
        "a kernel that starts as the identity",
        plain(lambda self, x: torch.relu(self.conv(x)), conv=identity),
        pixels,
        "conv:conv2d",
        label=LATENT,
    ),
)


def torus(name: str, make: Callable[[], nn.Module], carry: Action = fixed, fault: str = "", **more: Any) -> Entry:
    """Shifts by whole pixels."""
    more = {"size": SIZE} | more
    inputs = normal((4, 1, more["size"], more["size"]))
    return image(name, make, carry, fault, group="T(2)", move=first(rolled), inputs=inputs, **more)


SHIFTS = (
    torus(
        "circular convolutions",
        plain(lambda self, x: torch.relu(self.conv(x)), conv=convolution(1, 4, 3, **CIRCULAR)),
        rolled,
    ),
    torus(
        "circular convolutions, pooled",
        plain(
            lambda self, x: self.head(torch.relu(self.conv(x)).mean((2, 3))),
            conv=convolution(1, 4, 3, **CIRCULAR),
            head=made(nn.Linear, 4, 3),
        ),
    ),
    torus(
        "a filter in Fourier space",
        plain(
            lambda self, x: torch.fft.irfft2(torch.fft.rfft2(x) * self.f, s=(SIZE, SIZE)).relu(),
            f=lambda: nn.Parameter(torch.randn(SIZE, SIZE // 2 + 1, dtype=torch.cfloat)),
        ),
        rolled,
    ),
    torus("power spectrum", plain(lambda self, x: torch.fft.rfft2(x).abs())),
    torus(
        "zeros at the border",
        plain(lambda self, x: torch.relu(self.conv(x)), conv=convolution(1, 4, 3, padding=1)),
        rolled,
        "conv:conv2d",
    ),
    torus(
        "stride two on the torus",
        plain(lambda self, x: torch.relu(self.conv(x)).mean((2, 3)), conv=convolution(1, 4, 3, stride=2, **CIRCULAR)),
        fixed,
        "conv:conv2d",
        size=8,
    ),
    torus(
        "the phases of the spectrum",
        plain(lambda self, x: torch.fft.rfft2(x).angle().cos()),
        fixed,
        ":angle :cos :fft_rfft2",
    ),
    torus(
        "a position on the torus",
        plain(lambda self, x: torch.relu(x + self.place), place=kernel(1, SIZE, SIZE)),
        rolled,
        ":add",
    ),
)

ENTRIES = (*TURNS, *SHIFTS)
