"""What scripts/bench measures of Keras: the images that it counts are those that Keras has loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scripts.benchmark import dataset
from scripts.benchmark.measure import run_client


def test_keras_indexes_everything_and_an_epoch_is_whole_batches(tf: Any, tmp_path: Path) -> None:
    images = dataset.make(str(tmp_path), dataset.Shape(files=100, size=2_000, classes=10, large_files=0)).images
    done = run_client({"work": "keras", "root": images.dataset, "budget_s": 30})
    assert {key: result["count"] for key, result in done.items()} == {
        "keras-index": 80,  # eight of ten images are in train/
        "keras-epoch": 64,
        "tf-epoch": 64,
    }
    assert all(result["seconds"] > 0 for result in done.values())


def test_the_images_can_be_decoded_differ_and_have_the_size_that_was_asked_for(tf: Any, tmp_path: Path) -> None:
    images = dataset.make(str(tmp_path), dataset.Shape(files=100, size=9_000, classes=10, large_files=0)).images
    contents = {Path(images.dataset, path).read_bytes() for path, _ in images.files}
    assert len(contents) == 100
    assert all(tf.io.decode_jpeg(content).shape[2] == 3 for content in contents)
    assert 7_000 < images.bytes / 100 < 11_000
    assert images.files == tuple((path, Path(images.copy, path).stat().st_size) for path, _ in images.files)
