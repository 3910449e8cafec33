"""What a file's name says of it, before anything of it is read."""

from __future__ import annotations

#: Endings of the names that Keras, TensorFlow, torchvision and Pillow take for images, in lower case.
IMAGE_ENDINGS = (
    *(b".jpg", b".jpeg", b".jpe", b".jfif", b".png", b".gif", b".bmp", b".dib", b".webp"),
    *(b".tif", b".tiff", b".jp2", b".j2k", b".jpx", b".avif", b".heic", b".heif"),
    *(b".ppm", b".pgm", b".pbm", b".pnm", b".ico", b".tga"),
)


def is_image_name(name: bytes) -> bool:
    """Whether loaders take a file for an image by its name, or by a path that ends with it; in whatever case."""
    return name.lower().endswith(IMAGE_ENDINGS)
