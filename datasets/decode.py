"""Image files to arrays and back: PNG, JPEG, WebP and TIFF of any usual depth, through imageio; EXR and Radiance."""

from __future__ import annotations

import io
import os
import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from recon.datasets import exr
from recon.datasets.errors import InputError
from recon.datasets.files import atomic_write
from recon.datasets.folders import LINEAR

if TYPE_CHECKING:
    from PIL import ImageFile

_EXIF_ORIENTATION = 0x0112
_WITH_ALPHA = ("LA", "RGBA", "PA")
_COLOUR_MODES = {"1": "L", "P": "RGB", "PA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB"}


Kind = Literal["usual", "deep", "linear"]


@dataclass(frozen=True)
class ImageHeader:
    """What a file says of its image before it is decoded.

    Attributes:
        width, height: of the pixels as they are stored.
        orientation: EXIF's, 1 to 8; 1 means that the pixels are stored upright.
        stamp: time of change and size in bytes of the file, to notice that it is another one.
        has_alpha: whether there is an alpha channel.
        kind: "deep" for colours of 16 bits, "linear" for scene-linear light (.exr, .hdr), else "usual".
    """

    width: int
    height: int
    orientation: int
    stamp: tuple[int, int]
    has_alpha: bool = False
    kind: Kind = "usual"

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) as the image is meant to be shown."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_header(path: Path) -> ImageHeader:
    """The header of an image file (or the shape of a .npy array); `InputError` if there is no such image."""
    try:
        status = path.stat()
        kind: Kind = "usual"
        if path.suffix.lower() in LINEAR:
            linear = exr.read_header(path)
            width, height, orientation, kind = linear.width, linear.height, 1, "linear"
            has_alpha = {"R", "G", "B", "A"} <= set(linear.channels)
        elif path.suffix.lower() == ".npy":
            height, width, *channels = np.load(path, mmap_mode="r", allow_pickle=False).shape
            orientation, has_alpha = 1, channels in ([2], [4])
        else:
            from PIL import Image, TiffImagePlugin

            with Image.open(path) as image:
                width, height = image.size
                # Pillow turns TIFFs itself, and gives the size that they have then.
                if isinstance(image, TiffImagePlugin.TiffImageFile):
                    width, height = image.tag_v2[256], image.tag_v2[257]
                if image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys():
                    image.info["exif"] = _png_exif(path)  # Pillow would decode the whole image to look for it
                orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
                has_alpha = image.mode in _WITH_ALPHA or (image.mode == "P" and "transparency" in image.info)
                kind = "deep" if _is_deep(image) or image.mode.startswith("I;16") else "usual"
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such image") from None
    except Exception as error:  # the many readers behind PIL raise almost anything for a damaged file
        raise InputError(f"{path}: cannot be read as an image ({_one_line(error, path)})") from error
    if width < 1 or height < 1:
        raise InputError(f"{path}: image size {width}x{height} is not positive")
    if orientation not in range(1, 9):
        orientation = 1
    return ImageHeader(width, height, orientation, (status.st_mtime_ns, status.st_size), has_alpha, kind)


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image file as it is meant to be shown, from its header."""
    return read_header(path).upright_size


def decode(path: Path, *, upright: bool = True) -> NDArray:
    """The pixels of an image file.

    Returns:
        [H,W,K], K = 1 (grey), 2 (grey and alpha), 3 or 4; uint8, uint16 or float32 (which is 0..1 already, or linear
        light).
        Turned as EXIF says unless `upright` is false. `InputError` names a file that is damaged or cut short.
    """
    header = read_header(path)
    try:
        pixels = _stored(path)
    except InputError:
        raise
    except Exception as error:  # see read_header
        raise InputError(f"{path}: cannot be decoded ({_one_line(error, path)})") from error
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4:
        raise InputError(f"{path}: pixels of shape {pixels.shape} are not an image of 1 to 4 channels")
    if pixels.shape[:2] != (header.height, header.width):
        raise InputError(f"{path}: {pixels.shape[1]}x{pixels.shape[0]} px decoded, {header.width}x{header.height} said")
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    elif pixels.dtype.kind in "iu" and pixels.dtype not in (np.uint8, np.uint16):
        if pixels.min() < 0 or pixels.max() > 65535:
            raise InputError(f"{path}: pixel values {pixels.min()} to {pixels.max()} do not fit 16 bits")
        pixels = pixels.astype(np.uint16)
    elif pixels.dtype.kind == "f":
        pixels = pixels.astype(np.float32)
    return turned(pixels, header.orientation) if upright else pixels


def turned(pixels: NDArray, orientation: int) -> NDArray:
    """Stored pixels [H,W,...] as EXIF `orientation` (1 to 8) wants them shown."""
    if orientation in (2, 5, 7):
        pixels = pixels[:, ::-1]
    elif orientation == 4:
        pixels = pixels[::-1]
    quarters = {3: 2, 5: 1, 6: -1, 7: -1, 8: 1}.get(orientation, 0)
    return np.rot90(pixels, quarters)


def turned_back(pixels: NDArray, orientation: int) -> NDArray:
    """The other way round: pixels as shown [H,W,...] as they are stored where EXIF says `orientation`."""
    return turned(pixels, {6: 8, 8: 6}.get(orientation, orientation))


def eight_bits(pixels: NDArray) -> NDArray[np.uint8]:
    """The colour [H,W,3] of decoded pixels [H,W,K], in 8 bits and without alpha."""
    colour = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., [0, 0, 0]]
    if colour.dtype != np.uint8:
        colour = np.rint((as_float(colour) * np.float32(255)).clip(0, 255)).astype(np.uint8)
    return np.ascontiguousarray(colour)


def as_float(pixels: NDArray) -> NDArray[np.float32]:
    """Decoded pixels with 1 for their largest number; floats as they are."""
    if pixels.dtype == np.float32:
        return pixels
    return np.divide(pixels, np.float32(255 if pixels.dtype == np.uint8 else 65535), dtype=np.float32)


def save_image(path: Path, image: Tensor, *, bits: int = 8) -> None:
    """Write an image [H,W,1|3|4], 0..1, in the format that the suffix names; `bits` 16 for PNG, or TIFF in grey.

    The file appears whole or not at all. JPEG is written at quality 95 without colour subsampling.
    """
    peak, dtype = (255, np.uint8) if bits == 8 else (65535, np.uint16)
    save_pixels(path, (image.detach().cpu().double().clamp(0, 1) * peak).round().numpy().astype(dtype))


def save_pixels(path: Path, pixels: NDArray) -> None:
    """As `save_image`, of integers [H,W,1|3|4]."""
    import imageio.v3 as iio

    if pixels.dtype == np.uint16 and pixels.shape[2] > 1:  # beyond Pillow
        data = _encoded(pixels, "png", "rgb48be" if pixels.shape[2] == 3 else "rgba64be")
    else:
        options: dict[str, Any] = {}
        if path.suffix.lower() in (".jpg", ".jpeg"):
            options = {"quality": 95, "subsampling": 0}
        buffer = io.BytesIO()
        picture = pixels[..., 0] if pixels.shape[2] == 1 else pixels
        iio.imwrite(buffer, picture, plugin="pillow", extension=path.suffix.lower(), **options)
        data = buffer.getvalue()
    with atomic_write(path) as file:
        file.write(data)


def save_light(path: Path, pixels: NDArray[np.float32]) -> None:
    """Write linear light [H,W,3] as an EXR of 32-bit floats with lossless compression."""
    data = _encoded(pixels.astype(np.float32), "exr", "gbrpf32le", compression="zip16")
    with atomic_write(path) as file:
        file.write(data)


def _encoded(pixels: NDArray, codec: str, pixel_format: str, **options: str) -> bytes:
    """One picture, through FFmpeg."""
    import av

    encoder = av.CodecContext.create(codec, "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.height, encoder.width = pixels.shape[:2]
    encoder.pix_fmt, encoder.time_base, encoder.options = pixel_format, Fraction(1), options
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=pixel_format)
    return b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None)))


def _stored(path: Path) -> NDArray:
    """The pixels as they are stored, of whatever shape and type."""
    if path.suffix.lower() in LINEAR:
        return exr.read(path)
    return np.load(path, allow_pickle=False) if path.suffix.lower() == ".npy" else _read(path)


def _read(path: Path) -> NDArray:
    """Through imageio."""
    import imageio.v3 as iio
    from PIL import Image

    with Image.open(path) as image:
        mode = image.mode
        deep = _is_deep(image)
        transparent = "transparency" in image.info
        turned_by_pillow = image.getexif().get(_EXIF_ORIENTATION, 1) if image.format == "TIFF" else 1
        is_png = image.format == "PNG"
        if deep and is_png:
            image.verify()  # FFmpeg does not check
    if deep:
        pixel_format = "rgb48le" if mode == "RGB" else "rgba64le"
        source = _bare_png(path) if is_png else path
        return iio.imread(source, plugin="pyav", format=pixel_format, index=0)
    wanted = "RGBA" if mode == "P" and transparent else _COLOUR_MODES.get(mode)
    pixels = iio.imread(path, plugin="pillow", index=0, mode=wanted)
    return turned_back(pixels, turned_by_pillow)


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether Pillow, which opens 16-bit colour, keeps the upper eight bits only; its tiles say what is stored."""
    return image.mode in ("RGB", "RGBA", "LA") and any("16" in str(tile[3]) for tile in image.tile)


def _png_exif(path: Path) -> bytes:
    """The EXIF block of a PNG, wherever it is (often behind the pixels); empty when there is none."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, name = struct.unpack(">I4s", head)
            if name == b"eXIf":
                return file.read(length)
            file.seek(length + 4, os.SEEK_CUR)
    return b""


def _bare_png(path: Path) -> bytes:
    """A PNG with its pixels only: FFmpeg gives up on EXIF blocks that are not quite right."""
    data = path.read_bytes()
    position, kept = 8, [data[:8]]
    while position + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + length + 12
        if name in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append(data[position:end])
        position = end
    return b"".join(kept)


def _one_line(error: Exception, path: Path) -> str:
    """What a reader says, without the path that it may name again."""
    said = str(error).replace(f" {str(path)!r}", "")
    return " ".join(said.split()) or type(error).__name__
