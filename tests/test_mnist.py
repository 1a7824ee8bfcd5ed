"""The digits that are shipped, and reading a full copy in IDX form."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch

from unvanish.records import UnvanishError
from unvanish.zoo import mnist

BALANCE = [85, 126, 116, 107, 110, 87, 87, 99, 89, 94]


def idx(magic: int, sizes: tuple[int, ...], data: bytes) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in (magic, *sizes)) + data


def write_copy(folder: Path, images: str, labels: str, count: int = 3) -> None:
    """``count`` images in which every pixel of image i has the value i, and labels 9, 8, 7, …"""
    pixels = b"".join(bytes([i]) * 784 for i in range(count))
    for name, data in (
        (images, idx(2051, (count, 28, 28), pixels)),
        (labels, idx(2049, (count,), bytes(9 - i for i in range(count)))),
    ):
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


def test_the_shipped_digits_are_the_first_thousand_of_the_test_set() -> None:
    images, labels = mnist.load()
    assert images.shape == (1000, 784) and images.dtype == torch.float32
    assert labels.shape == (1000,) and labels.dtype == torch.int64
    assert images.min() == 0 and images.max() == 1
    assert labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]  # as every listing of the MNIST test set begins
    assert torch.bincount(labels).tolist() == BALANCE
    assert int((images[0] * 255).round().sum()) == 18454  # summed over the raw bytes of the original file
    assert int((images.double() * 255).round().sum()) == 24443134


def test_the_notice_states_source_licence_and_balance() -> None:
    notice = (mnist.SHIPPED / "NOTICE").read_text()
    assert "LeCun" in notice and "Cortes" in notice and "Burges" in notice and "ShareAlike 3.0" in notice
    assert ", ".join(map(str, BALANCE)) in notice


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
        ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
        ("t10k-images.idx3-ubyte", "t10k-labels.idx1-ubyte"),
    ],
)
def test_a_full_copy_is_found_under_its_usual_names(tmp_path: Path, images: str, labels: str) -> None:
    write_copy(tmp_path, images, labels)
    pixels, digits = mnist.load(tmp_path, count=2)
    assert pixels.shape == (2, 784)
    assert pixels[0].unique().tolist() == [0.0]
    assert pixels[1].unique().tolist() == pytest.approx([1 / 255])
    assert digits.tolist() == [9, 8]


def test_the_training_set_comes_before_the_test_set(tmp_path: Path) -> None:
    write_copy(tmp_path, "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", count=1)
    write_copy(tmp_path, "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", count=3)
    assert len(mnist.load(str(tmp_path), count=3)[1]) == 3


def test_a_missing_folder_and_a_folder_without_the_files(tmp_path: Path) -> None:
    with pytest.raises(UnvanishError, match="no such folder"):
        mnist.load(tmp_path / "nowhere")
    with pytest.raises(UnvanishError, match="no pair of files like train-images-idx3-ubyte"):
        mnist.load(tmp_path)


def test_a_count_beyond_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(UnvanishError, match=r"1001 images were asked for, it holds 1000"):
        mnist.load(count=1001)
    with pytest.raises(UnvanishError, match="at least one"):
        mnist.load(count=0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (idx(2049, (3,), bytes(3)), "starts with 2051, this one with 2049"),
        (b"", "starts with 2051"),
        (idx(2051, (3, 32, 32), bytes(3 * 1024)), r"shape \(32, 32\), MNIST's have \(28, 28\)"),
        (idx(2051, (3, 28, 28), bytes(2 * 784)), "cut short"),
    ],
)
def test_a_file_that_is_not_what_it_should_be(tmp_path: Path, data: bytes, message: str) -> None:
    write_copy(tmp_path, "train-images-idx3-ubyte", "train-labels-idx1-ubyte")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(data)
    with pytest.raises(UnvanishError, match=message):
        mnist.load(tmp_path, count=3)


def test_a_compressed_file_that_is_cut_short_or_not_compressed(tmp_path: Path) -> None:
    write_copy(tmp_path, "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"not gzip at all"):
        path.write_bytes(broken)
        with pytest.raises(UnvanishError, match="fetch this file again"):
            mnist.load(tmp_path, count=3)
