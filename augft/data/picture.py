"""One picture file to RGB pixels. Pictures are hostile input: nothing in here trusts a byte of them.

Every mode becomes RGB uint8: 16-bit grey is scaled (not clipped), palettes are looked up, CMYK converted,
transparent parts laid on white, EXIF orientation applied; of an animation the first frame is taken. A picture
of another size is cut to its central square and resampled once with Pillow's antialiased bilinear filter: the
same as resizing the shorter side and cropping the centre, without making the part that is thrown away.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from augft.errors import DataError

UInt8Array = npt.NDArray[np.uint8]

# More than most cameras make; checked in the header, before memory is taken for pixels.
MAX_PIXELS = 64 * 2**20
MAX_FILE_BYTES = 256 * 2**20

_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
    # Kinds that are not read: they are rejected by name, and not passed over.
    | {".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".tga", ".psd"}
)
# Raster formats only: some of Pillow's other readers start programs (EPS) or seldom meet hostile files.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")

_EXIF_ORIENTATION = 0x0112
_LYING = (5, 6, 7, 8)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadPictureError(DataError):
    """A picture that cannot be used; the message is the reason, to be put after the picture's name."""


class TooLargeError(BadPictureError):
    """More bytes or pixels than are allowed."""


class NoPictureError(BadPictureError):
    """Not a picture of a kind that is read."""


def is_picture(name: str) -> bool:
    """Whether a file is one, by the ending of its name."""
    return os.path.splitext(name)[1].lower() in _SUFFIXES


def to_pixels(picture: bytes | UInt8Array, image_size: int | None, *, max_pixels: int = MAX_PIXELS) -> UInt8Array:
    """Decode a picture and bring it to its stored size.

    Args:
        picture: the bytes of a picture file, or uint8 (H, W, 3) as it is.
        image_size: side of the stored square in pixels; None keeps the size.
        max_pixels: a file whose header says more is not decoded.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        BadPictureError: empty, too large, corrupt, cut short, or without an agreed meaning in 8 bits.
    """
    if isinstance(picture, np.ndarray):
        if image_size is None or picture.shape[:2] == (image_size, image_size):
            return picture
        return np.asarray(_square(Image.fromarray(picture), image_size))
    with _judged(max_pixels):
        rgb, _ = _decode(picture, None if image_size is None else 2 * image_size, max_pixels)
        return np.asarray(rgb if image_size is None else _square(rgb, image_size))


def square_and_size(content: bytes, image_size: int) -> tuple[UInt8Array, tuple[int, int]]:
    """As `to_pixels`, uint8 (S, S, 3); and the height and width of the whole picture, upright."""
    with _judged(MAX_PIXELS):
        rgb, size = _decode(content, 2 * image_size, MAX_PIXELS)
        return np.asarray(_square(rgb, image_size)), size


def to_rgb(content: bytes, least: int | None = None) -> Image.Image:
    """The whole picture, upright, in RGB.

    Args:
        content: of a picture file.
        least: pixels that the shorter side must keep. A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where it does.

    Raises:
        BadPictureError: as `to_pixels`.
    """
    with _judged(MAX_PIXELS):
        return _decode(content, least, MAX_PIXELS)[0]


@contextmanager
def _judged(max_pixels: int) -> Iterator[None]:
    """Whatever goes wrong over a picture's bytes as a `BadPictureError`."""
    try:
        yield
    except BadPictureError:
        raise
    except Image.DecompressionBombError:
        raise TooLargeError(f"has more than {max_pixels:,} pixels") from None
    except UnidentifiedImageError:
        raise NoPictureError("is not a picture of a known kind") from None
    except Exception as error:  # whatever a decoder raises over hostile bytes is this picture's fault
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadPictureError(f"cannot be decoded ({reason})") from error


def _decode(content: bytes, least: int | None, max_pixels: int) -> tuple[Image.Image, tuple[int, int]]:
    """The picture, a JPEG perhaps smaller than it is; and its height and width as it is, upright."""
    if not content:
        raise BadPictureError("is empty or cannot be read")
    if len(content) > MAX_FILE_BYTES:
        raise TooLargeError(f"is a file larger than {MAX_FILE_BYTES >> 20} MiB")
    with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise TooLargeError(f"has {width}x{height} pixels, more than {max_pixels:,}")
        if least is not None:
            # JPEG decodes at 1/2, 1/4 or 1/8 size at a fraction of the cost; the filter does what is left.
            image.draft(None, (least, least))
        reduced = image.size != (width, height)
        image.load()
        rgb = _to_rgb(image)
        # Read after `load`: some formats apply the orientation themselves and then drop the tag.
        orientation = 1
        with suppress(Exception):  # as many kinds of error as of damage; the pixels are there
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    if not reduced:
        return rgb, (rgb.height, rgb.width)
    return rgb, (width, height) if orientation in _LYING else (height, width)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.int64)
        if deep.min() < 0 or deep.max() > 0xFFFF:
            raise BadPictureError("has grey values outside of 16 bits")
        image = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise BadPictureError("has float pixels, whose range is not known")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        image = white
    return image if image.mode == "RGB" else image.convert("RGB")


def _square(image: Image.Image, size: int) -> Image.Image:
    """The central square of an image, resampled to (size, size)."""
    if image.size == (size, size):
        return image
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
