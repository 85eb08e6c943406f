"""From a file to its own numbers, exactly or not at all. `data.images` gives these numbers a meaning.

Which decoder reads what follows from which one is exact:

- PNG: OpenCV. Pillow cuts 16-bit colour down to 8 bits and fills missing rows with zeros.
- TIFF above 8 bits, signed or float: OpenCV. Pillow cannot open float64 or float colour, and returns wrong
  numbers for compressed big-endian floats.
- TIFF up to 8 bits (palette, CMYK, 1 bit), JPEG, BMP: Pillow. OpenCV accepts a truncated JPEG and cannot read
  a CMYK TIFF.

What neither reads correctly (planar 16-bit colour, for one) is refused from the header. So is a file that ends
before the pixels its header promises, or could not hold them however well they were compressed: decoders make up
what is missing, gigabytes of it where a damaged header says so.
"""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from util.errors import UserError, printable

Raw = NDArray[Any]

EXTENSIONS = frozenset({".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".npy"})
MAX_PIXELS = 2**28  # 16,384 squared: above every sensor, below what fills a machine's memory
_LONGEST = 300  # characters of a decoder's message: some quote the file
_GRAYS = ("1", "L", "LA", "La")  # modes of Pillow that become one channel
_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0")  # the last is BigTIFF, of which Pillow reads one byte order only

_DEFLATE = 1032  # bytes of pixels that one compressed byte can hold at most: 258 in 2 bits
# The same for each compression of TIFF. LZW: no word is longer than 4,096 or shorter than 9 bits; PackBits: 128 in
# 2 bytes; JPEG: a block of 64, four times, in a bit.
_MOST = {5: 3641, 7: 2048, 8: _DEFLATE, 32773: 64, 32946: _DEFLATE}

# Pillow's own guard against decompression bombs, set to the limit that holds for every decoder here.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


class ImageError(UserError, ValueError):
    """An image file, or a set of them, that cannot be used; the message names the file and the remedy."""


@dataclass(frozen=True)
class _Header:
    height: int  # as stored, before the orientation is applied
    width: int
    depth: str  # "uint8", "uint16" or "float32"
    decoder: str  # "png" and "tiff" (both OpenCV) or "pillow"
    orientation: int = 1  # EXIF/TIFF tag 274
    gray: bool = False  # PNG gray with alpha: OpenCV repeats the gray into three channels
    channels: int = 3  # of what `read_raw` gives: 1 or 3
    pages: bool = False  # a TIFF with further pages


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """One ImageError that names the file, whatever goes wrong: on bad bytes a decoder may raise anything."""
    try:
        if not path.is_file():
            raise ImageError("it does not exist or is no regular file")
        yield
    except Exception as error:
        plain = isinstance(error, (ImageError, OSError))
        lines = str(error) if plain else f"{type(error).__name__}: {error}"
        reason = printable(" ".join(lines.split()))
        reason = reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]}..."
        raise ImageError(
            f"{str(path)!r} cannot be read as an image: {reason}; replace, convert or remove it"
        ) from error


# --- headers


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(height, width) as `read_raw` will return them, without decoding.

    Raises:
        ImageError: see `describe`.
    """
    return describe(path)[:2]


def describe(path: str | os.PathLike[str]) -> tuple[int, int, str]:
    """Height, width and depth as `describe_all` gives them, which raises the same."""
    return describe_all(path)[:3]


def describe_all(path: str | os.PathLike[str]) -> tuple[int, int, str, int, bool]:
    """Height and width as displayed, depth ("uint8", "uint16", "float32"), channels (1, 3), from the header alone.

    And whether there are further pages: only the first is ever read.

    Raises:
        ImageError: the header cannot be read, is of a kind that is not supported, or promises more than the
            file holds: what has been cut off is noticed without decoding.
    """
    path = Path(path)
    with _explained(path):
        if path.suffix.lower() == ".npy":
            array = _map_npy(path)
            return array.shape[0], array.shape[1], _depth_of(array.dtype), 1 if array.ndim == 2 else 3, False
        with path.open("rb") as file:
            header = _read_header(file)
        size = header.height, header.width
        return *(size[::-1] if header.orientation >= 5 else size), header.depth, header.channels, header.pages


def _checked_size(height: int, width: int) -> tuple[int, int]:
    if height < 1 or width < 1:
        raise ImageError(f"its size is {height}x{width}")
    if height * width > MAX_PIXELS:
        raise ImageError(f"its size {height}x{width} is above the limit of {MAX_PIXELS} pixels (cut it in tiles)")
    return height, width


def _check_room(promised: int, most: int) -> None:
    """Refuse a file of which `most` is all that its bytes could possibly hold."""
    if promised > most:
        raise ImageError("it is truncated or damaged (its header promises more than its bytes can hold)")


def _size(file: BinaryIO) -> int:
    return file.seek(0, os.SEEK_END)


def _read_header(file: BinaryIO) -> _Header:
    start = file.read(8)
    file.seek(0)
    if not start:
        raise ImageError("it is empty (0 bytes)")
    if start == _PNG:
        return _png_header(file)
    return _tiff_header(file) if start[:4] in _TIFF else _pillow_header(file)


def _exif_orientation(block: bytes) -> int:
    exif = Image.Exif()
    try:
        exif.load(block)
        value = exif.get(274, 1)
    except (SyntaxError, ValueError, TypeError, struct.error):
        return 1  # an unreadable EXIF block says nothing about the pixels
    return value if value in range(1, 9) else 1


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Kind and length of each chunk, the file standing at its body; ends with IEND."""
    size = _size(file)
    file.seek(len(_PNG))
    while True:
        head = file.read(8)
        length, kind = struct.unpack(">I4s", head.ljust(8, b"\0"))
        body = file.tell()
        if body + length + 4 > size:
            raise ImageError("it is truncated (a PNG without an end)")
        yield kind, length
        if kind == b"IEND":
            return
        file.seek(body + length + 4)


def _png_body(file: BinaryIO, kind: bytes, length: int) -> bytes:
    """A chunk's body, compared with its checksum: how strict a PNG decoder is depends on its version."""
    body, stored = file.read(length), file.read(4)
    if stored != struct.pack(">I", zlib.crc32(kind + body)):
        raise ImageError("it is damaged (a PNG checksum is wrong)")
    return body


def _essential_png(file: BinaryIO) -> bytes:
    """The file without its ancillary chunks, of which those of an animation move or resize the first frame."""
    parts = [_PNG]
    for kind, length in _png_chunks(file):
        if kind[:1].isupper():
            body = _png_body(file, kind, length)
            parts += [struct.pack(">I4s", length, kind), body, struct.pack(">I", zlib.crc32(kind + body))]
    return b"".join(parts)


def _png_header(file: BinaryIO) -> _Header:
    header, orientation, packed = b"", 1, 0
    for kind, length in _png_chunks(file):
        if kind in (b"IDAT", b"fdAT"):
            packed += length if kind == b"IDAT" else 0
            continue
        body = _png_body(file, kind, length)  # of every kind: a damaged name could hide an orientation
        header = body if kind == b"IHDR" else header
        orientation = _exif_orientation(body) if kind == b"eXIf" else orientation
    if len(header) != 13:
        raise ImageError("it has no PNG header")
    width, height, bits, colour = struct.unpack(">IIBB", header[:10])
    _checked_size(height, width)
    _check_room(height * (width * bits * {2: 3, 4: 2, 6: 4}.get(colour, 1) // 8), packed * _DEFLATE)
    depth = "uint16" if bits == 16 else "uint8"
    channels = 1 if colour in (0, 4) else 3
    return _Header(height, width, depth, "png", orientation, gray=colour == 4, channels=channels)


def _tiff_header(file: BinaryIO) -> _Header:
    start = file.read(8)
    if start[2:3] == b"+":
        start += file.read(8)  # BigTIFF: the offset of the first page is eight bytes wide
    tags = TiffImagePlugin.ImageFileDirectory_v2(start)
    file.seek(tags.next)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow skips a tag it cannot read: the bits per sample, for one
        try:
            tags.load(file)
        except UserWarning as warning:
            # Most writers put the tags behind the pixels: what Pillow calls corrupt EXIF data was cut off.
            if "but only got" in str(warning):
                what = "it is truncated or damaged" if "Skipping tag" in str(warning) else "it is truncated"
                raise ImageError(f"{what} (its tags lie behind its end)") from warning
            raise ImageError(f"its tags are damaged ({warning})") from warning
    bits, kinds = set(tags.get(258, (1,))), set(tags.get(339, (1,)))
    if len(bits) != 1 or len(kinds) != 1:
        raise ImageError("its bands differ in kind")
    bit, kind = bits.pop(), kinds.pop()
    if bit not in (1, 2, 4, 8, 16, 32, 64) or kind not in (1, 2, 3, 4):
        raise ImageError(f"its samples ({bit} bits, kind {kind}) are not supported; save 8, 16 or 32 bits")
    plain = bit <= 8 and kind in (1, 4)
    bands = _check_tiff_layout(tags, deep=not plain)
    height, width = _checked_size(int(tags[257]), int(tags[256]))
    _check_tiff_extent(tags, height, width, bit, _size(file))
    depth = "uint8" if plain else "uint16" if bit == 16 and kind in (1, 4) else "float32"
    orientation = tags.get(274, 1)
    orientation = orientation if orientation in range(1, 9) else 1
    channels = 1 if bands == 1 and tags.get(262, 1) != 3 else 3  # a palette is expanded to its colours
    pages = _has_pages(file, tags.next, start)
    return _Header(height, width, depth, "pillow" if plain else "tiff", orientation, channels=channels, pages=pages)


def _has_pages(file: BinaryIO, place: int, start: bytes) -> bool:
    """Whether the directory at `place` is of another picture, not of the first one reduced, or its mask."""
    if not place:
        return False
    second = TiffImagePlugin.ImageFileDirectory_v2(start)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file.seek(place)
            second.load(file)
        return 257 in second and not int(second.get(254, 0)) & 0b101
    except Exception:  # bytes that no picture is read from: nothing is left out
        return False


def _check_tiff_layout(tags: TiffImagePlugin.ImageFileDirectory_v2, deep: bool) -> int:
    """How many bands; refuse what a decoder would silently return as one, as 8 bits or with shuffled planes."""
    samples, colour, extra = int(tags.get(277, 1)), tags.get(262, 1), tuple(tags.get(338, ()))
    if deep and colour not in (0, 1, 2):
        raise ImageError(f"colour kind {colour} is supported up to 8 bits only; save gray or RGB")
    # Unspecified extra samples are taken for alpha beside RGB, for data beside gray (two-band radar, say).
    bands = samples - (len(extra) if colour == 2 else sum(value != 0 for value in extra))
    if bands not in (1, 3) and not (bands == 4 and colour == 5):
        raise ImageError(f"it has {bands} bands (1 or 3 are supported); save the bands you need as .npy")
    if deep and samples == 2:
        raise ImageError("gray with alpha is supported up to 8 bits only; save it without alpha")
    if deep and samples > 1 and tags.get(284, 1) == 2:
        raise ImageError("its colours are stored as separate planes; save it interleaved or as .npy")
    return bands


def _check_tiff_extent(
    tags: TiffImagePlugin.ImageFileDirectory_v2, height: int, width: int, bits: int, size: int
) -> None:
    """Refuse a file of `size` bytes in which strips or tiles are missing, or lie behind its end.

    Written lengths count where there is compression only: many writers get those of plain strips wrong, and
    decoders ignore them.
    """
    compression, samples = int(tags.get(259, 1)), int(tags.get(277, 1))
    if compression == 6:
        return  # JPEG of the old kind keeps its data where other tags say
    planes, tiled = samples if tags.get(284, 1) == 2 else 1, 322 in tags
    down, across = (int(tags[323]), int(tags[322])) if tiled else (min(int(tags.get(278) or height), height), width)
    starts, lengths = (tuple(tags.get(tag, ())) for tag in ((324, 325) if tiled else (273, 279)))
    if down < 1 or across < 1 or len(starts) < -(-height // down) * -(-width // across) * planes:
        raise ImageError("it is truncated or damaged (strips or tiles of its pixels are missing)")
    row = -(-across * bits * (samples // planes) // 8)
    rows = [down if tiled else min(down, height - top) for top in range(0, height, down)]
    sizes = [row * count for count in rows for _ in range(-(-width // across))] * planes
    if compression == 1 and tags.get(262) != 6:  # 6: colours in half resolution
        lengths = tuple(sizes)
    if any(start + length > size for start, length in zip(starts, lengths, strict=False)):
        raise ImageError("it is truncated (its pixels lie behind its end)")
    if compression in _MOST:
        _check_room(sum(sizes), size * _MOST[compression])
    elif compression in (2, 3, 4):  # fax: the shortest row is one bit
        _check_room(height, 8 * size)


def _pillow_header(file: BinaryIO) -> _Header:
    try:
        opened = Image.open(file, formats=("JPEG", "BMP"))
    except UnidentifiedImageError:
        file.seek(0)
        raise ImageError(f"it is no PNG, TIFF, JPEG or BMP (it begins with {file.read(12)!r})") from None
    with opened as image:
        orientation = _exif_orientation(image.info.get("exif", b""))
        height, width = _checked_size(image.height, image.width)
        if image.format == "JPEG":
            _check_jpeg(file, height, width)
        else:
            _check_bmp(image, _size(file))
        return _Header(height, width, "uint8", "pillow", orientation, channels=1 if image.mode in _GRAYS else 3)


def _check_bmp(image: Image.Image, size: int) -> None:
    assert isinstance(image, ImageFile.ImageFile)
    codec, _, start, arguments = image.tile[0]
    if codec == "raw" and isinstance(arguments, tuple):  # its mode, the bytes of a row, the direction
        _check_room(start + arguments[1] * (image.height - 1) + 1, size)


def _check_jpeg(file: BinaryIO, height: int, width: int) -> None:
    """Refuse a JPEG without its end marker, or too small for a bit for each block of 8x8 pixels."""
    frame, scan = _jpeg_frame(file)
    size = _size(file)
    if frame in (0xC0, 0xC1, 0xC2):  # Huffman codes; arithmetic ones can be shorter than a bit
        _check_room(-(-height // 8) * -(-width // 8), 8 * size)
    file.seek(max(scan, size - 2))
    if file.read() != b"\xff\xd9":
        file.seek(scan)  # something follows the image: zeros, a camera's data, a second picture
        if b"\xff\xd9" not in file.read():
            raise ImageError("it is truncated (a JPEG without an end)")


def _jpeg_frame(file: BinaryIO) -> tuple[int, int]:
    """The marker that says how the image is coded, and where the pixels begin; zeros where neither is found."""
    frame = 0
    file.seek(2)
    while len(head := file.read(4)) == 4 and head[0] == 0xFF:
        if head[1] == 0xFF:  # a marker may be preceded by any number of these
            file.seek(-3, os.SEEK_CUR)
            continue
        if head[1] == 0xDA:
            return frame, file.tell()
        if head[1] in range(0xC0, 0xD0) and head[1] not in (0xC4, 0xC8, 0xCC):
            frame = head[1]
        file.seek(int.from_bytes(head[2:], "big") - 2, os.SEEK_CUR)
    return 0, 0


def _map_npy(path: Path) -> Raw:
    """An .npy file, not yet read, as (H, W) or (H, W, 3); channels last where a shape could be both."""
    return _shaped(np.load(path, mmap_mode="r", allow_pickle=False))


def _shaped(array: Any) -> Raw:
    """An array of real numbers as (H, W) or (H, W, 3)."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "buif":
        raise ImageError("it is not one array of real numbers (see numpy.save)")
    if array.ndim == 3 and array.shape[2] not in (1, 3) and array.shape[0] in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ImageError(f"its shape {array.shape} is not (H,W), (H,W,1), (H,W,3), (1,H,W) or (3,H,W)")
    _checked_size(*array.shape[:2])
    image: Raw = array
    return image


# --- pixels


def read_raw(path: str | os.PathLike[str]) -> Raw:
    """The file's own numbers: (H, W) or (H, W, 3) in RGB order, uint8, uint16 or float32.

    Signed and 32-bit integers and float64 become float32 (exact up to 2^24 for integers), 1 bit becomes uint8
    0/255. Alpha is dropped, a palette expanded to its colours, CMYK converted to RGB, an EXIF or TIFF
    orientation applied; of several pages the first is read. The kind of file is told by its content (.npy: by
    its name). A "white is zero" TIFF keeps its counts above 8 bits and is inverted below, as viewers do.

    Raises:
        ImageError: the file is missing, damaged, unsupported, above `MAX_PIXELS`, or holds NaN or infinity.
    """
    path = Path(path)
    with _explained(path):
        if path.suffix.lower() == ".npy":
            return _native(_map_npy(path))
        with path.open("rb") as file:
            header = _read_header(file)
            data = _essential_png(file) if header.decoder == "png" else b""
            file.seek(0)
            if header.decoder == "pillow":
                array = _native(_decode_pillow(file, header))
            else:
                array = _native(_decode_cv2(data or file.read(), header))
        if array.ndim not in (2, 3) or array.dtype != header.depth:
            raise ImageError(f"the decoder gave {array.dtype} {array.shape}, its header says {header.depth}")
        return array


def _depth_of(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "b" or dtype == np.uint8:
        return "uint8"
    return "uint16" if dtype.kind == "u" and dtype.itemsize == 2 else "float32"


def pixels_of(array: Raw, name: str) -> Raw:
    """An array as `read_raw` would give it from an .npy file: (H, W) or (H, W, 3), uint8, uint16 or float32.

    Raises:
        ImageError: another shape or kind of numbers, too many pixels, NaN or infinity; `name` says of which image.
    """
    try:
        return _native(_shaped(array))
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error


def _native(array: Raw) -> Raw:
    """A contiguous copy in uint8, uint16 or finite float32."""
    with np.errstate(over="ignore"):
        copy: Raw = np.array(array, dtype=_depth_of(array.dtype), order="C")
    if copy.dtype == np.float32 and (bad := copy.size - int(np.isfinite(copy).sum())):
        raise ImageError(f"{bad} of its {copy.size} values are NaN, infinite or beyond float32; fill them in first")
    return copy * np.uint8(255) if array.dtype.kind == "b" else copy


def _turned(array: Raw, orientation: int) -> Raw:
    """Undo an EXIF orientation (1-8): 5-8 swap the axes; then rows, columns or both are reversed."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return array[::rows, ::columns]


def _decode_cv2(data: bytes, header: _Header) -> Raw:
    array: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise ImageError("the decoder gave no image (truncated, damaged or of an unsupported kind)")
    if array.ndim == 3:
        array = array[:, :, 0] if header.gray else array[:, :, 2::-1]  # BGR or BGRA to RGB
    # OpenCV applies the orientation of a TIFF itself, and ignores that of a PNG.
    pixels: Raw = _turned(array, header.orientation) if header.decoder == "png" else array
    return pixels


def _decode_pillow(file: BinaryIO, header: _Header) -> Raw:
    with Image.open(file, formats=("JPEG", "BMP", "TIFF")) as image:
        if image.mode in ("I", "F") or image.mode.startswith("I;"):
            raise ImageError(f"its mode is {image.mode}, which its header does not say")
        is_tiff = image.format == "TIFF"
        array = np.asarray(image.convert("L" if image.mode in _GRAYS else "RGB"))
    return array if is_tiff else _turned(array, header.orientation)  # Pillow turns a TIFF itself
