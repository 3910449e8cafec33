"""Train a small CNN on a directory of images. It knows nothing of symfuse.

    python train.py DIRECTORY [--size PIXELS] [--color rgb|grayscale] [--epochs NUMBER] [--at-least ACCURACY]

DIRECTORY holds train/CLASS/… and val/CLASS/… (or validation, valid, test), or just CLASS/…, of which a fifth then
validates.
"""

from __future__ import annotations

import argparse
import os
import sys

import tensorflow as tf
from tensorflow.keras import layers
from tensorflow.keras.preprocessing.image import DirectoryIterator, ImageDataGenerator

SEED = 1
BATCH = 32


def main() -> None:
    """Train, and print the validation accuracy."""
    options = arguments()
    tf.keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()
    training, validation = generators(options)
    if not training.samples or not validation.samples:
        sys.exit(f"train.py: too few images in {options.directory}: a class needs five, or train/ and val/ one each")
    model = network(options, classes=training.num_classes)
    fitted = model.fit(training, validation_data=validation, epochs=options.epochs, verbose=2)
    accuracy = fitted.history["val_accuracy"][-1]
    print(f"validation accuracy: {accuracy:.4f}")
    if accuracy < options.at_least:
        sys.exit(f"train.py: the validation accuracy is below {options.at_least}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train a small CNN on a directory of images.")
    parser.add_argument("directory")
    parser.add_argument("--size", type=int, default=64, help="images are scaled to this width and height")
    parser.add_argument("--color", choices=["rgb", "grayscale"], default="rgb")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--at-least", type=float, default=0.0, help="fail below this validation accuracy")
    return parser.parse_args()


def generators(options: argparse.Namespace) -> tuple[DirectoryIterator, DirectoryIterator]:
    """Batches for training and for validation, from two directories or from a split of one."""
    common = {
        "target_size": (options.size, options.size),
        "color_mode": options.color,
        "class_mode": "sparse",
        "batch_size": BATCH,
        "seed": SEED,
    }
    train = os.path.join(options.directory, "train")
    for name in ("val", "validation", "valid", "test"):
        other = os.path.join(options.directory, name)
        if os.path.isdir(train) and os.path.isdir(other):
            plain = ImageDataGenerator(rescale=1 / 255)
            return plain.flow_from_directory(train, **common), plain.flow_from_directory(other, shuffle=False, **common)
    split = ImageDataGenerator(rescale=1 / 255, validation_split=0.2)
    return (
        split.flow_from_directory(options.directory, subset="training", **common),
        split.flow_from_directory(options.directory, subset="validation", shuffle=False, **common),
    )


def network(options: argparse.Namespace, *, classes: int) -> tf.keras.Model:
    """A small convolutional network."""
    channels = 1 if options.color == "grayscale" else 3
    model = tf.keras.Sequential(
        [
            layers.Input((options.size, options.size, channels)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(128, activation="relu"),
            layers.Dense(classes, activation="softmax"),
        ]
    )
    model.compile(
        optimizer=tf.keras.optimizers.Adam(2e-3), loss="sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


if __name__ == "__main__":
    main()
