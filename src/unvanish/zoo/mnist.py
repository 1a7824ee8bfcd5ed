"""The MNIST digits: 1,000 of them come with the package, a full copy is read from a folder. Nothing is downloaded."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import torch
from torch import Tensor

from unvanish.records import UnvanishError

SHIPPED = Path(__file__).parent / "data"
SPLITS = ("t10k-1000", "train", "t10k")
PIXELS = 28 * 28


def load(folder: str | Path | None = None, count: int = 1000) -> tuple[Tensor, Tensor]:
    """The first ``count`` images and their labels, in the order of the file.

    ``folder`` holds a full copy in IDX form under its usual names (``train-images-idx3-ubyte``, ``t10k-…``, a dot for
    the dash before ``idx``, with or without ``.gz``); the training set is taken where both are there. None: the 1,000
    test images that come with the package.

    Images: float32 (count, 784) in 0 … 1; labels: int64 (count,). Raises UnvanishError for a missing folder or file, a
    file that is not IDX, one cut short, and a count beyond what is there.

    >>> images, labels = load(count=3)
    >>> images.shape, labels.tolist()
    (torch.Size([3, 784]), [7, 2, 1])
    """
    where = SHIPPED if folder is None else Path(folder)
    if not where.is_dir():
        raise UnvanishError(f"mnist.load({str(where)!r}): there is no such folder; name one that holds the IDX files")
    if count < 1:
        raise UnvanishError(f"mnist.load(count={count}): ask for at least one image")
    image_file, label_file = _files(where)
    images, labels = _read(image_file, (28, 28), count), _read(label_file, (), count)
    return images.reshape(count, PIXELS).float() / 255, labels.long()


def sample(count: int) -> tuple[Tensor, Tensor]:
    """``count`` of the shipped digits drawn without replacement by torch's generator: images (count, 784), labels."""
    images, labels = load()
    chosen = torch.randperm(len(labels))[:count]
    return images[chosen], labels[chosen]


def _files(folder: Path) -> tuple[Path, Path]:
    for split in SPLITS:
        for join in ("-", "."):
            for ending in ("", ".gz"):
                pair = tuple(
                    folder / f"{split}-{what}{ending}"
                    for what in (f"images{join}idx3-ubyte", f"labels{join}idx1-ubyte")
                )
                if all(path.is_file() for path in pair):
                    return pair[0], pair[1]
    raise UnvanishError(
        f"mnist.load({str(folder)!r}): this folder has no pair of files like train-images-idx3-ubyte and"
        " train-labels-idx1-ubyte (or t10k-…, with or without .gz)"
    )


def _read(path: Path, shape: tuple[int, ...], count: int) -> Tensor:
    """The first ``count`` items of an IDX file of bytes: a magic number, the sizes, then the data, all big-endian."""
    header = 8 + 4 * len(shape)
    wanted = header + count * math.prod(shape)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = bytearray(file.read(wanted))
    except (OSError, EOFError, zlib.error) as error:
        raise UnvanishError(f"reading {path}: {error}; fetch this file again") from None
    magic = 0x0800 + 1 + len(shape)
    number = int.from_bytes(data[:4], "big")
    if len(data) < header or number != magic:
        raise UnvanishError(
            f"reading {path}: an IDX file of this kind starts with {magic}, this one with {number}; is it MNIST?"
        )
    total, *sizes = (int.from_bytes(data[i : i + 4], "big") for i in range(4, header, 4))
    if tuple(sizes) != shape:
        raise UnvanishError(f"reading {path}: each item has the shape {tuple(sizes)}, MNIST's have {shape}")
    if count > total:
        raise UnvanishError(
            f"reading {path}: {count} images were asked for, it holds {total}; ask for {total} or fewer"
        )
    if len(data) < wanted:
        raise UnvanishError(
            f"reading {path}: cut short: {count} items need {wanted} bytes, {len(data)} are there; fetch it again"
        )
    return torch.frombuffer(data, dtype=torch.uint8, offset=header).reshape(count, *shape)
