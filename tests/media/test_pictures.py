"""PNG files say that a model drew them: read back chunk by chunk, as the standards have it."""

import struct
import zlib
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from score_sde.media import pictures
from score_sde.media.animation import Animation
from score_sde.media.curves import Curves
from score_sde.media.images import Images
from score_sde.media.maps import Maps
from score_sde.media.series import Series

RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"


def xmp_of(path):
    """The packets in a PNG (ISO/IEC 15948, 11.3.4.5 iTXt)."""
    content, found, place = path.read_bytes(), [], 8
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    while place < len(content):
        (length,), kind = struct.unpack(">I", content[place : place + 4]), content[place + 4 :][:4]
        body = content[place + 8 : place + 8 + length]
        (check,) = struct.unpack(">I", content[place + 8 + length :][:4])
        assert check == zlib.crc32(kind + body)
        if kind == b"iTXt" and body.startswith(b"XML:com.adobe.xmp\0"):
            compressed, method, rest = body[18], body[19], body[20:]
            assert (compressed, method) == (0, 0)
            _language, _keyword, text = rest.split(b"\0", 2)
            found.append(text.decode())
        place += 12 + length
    return found


def source_types(path):
    """What the packets hold as the digital source type."""
    roots = [ElementTree.fromstring(text.removeprefix("\ufeff")) for text in xmp_of(path)]
    return [
        description.get(f"{IPTC}DigitalSourceType")
        for root in roots
        for description in root.iter(f"{RDF}Description")
    ]


GENERATED = ["http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"]


@pytest.mark.parametrize(
    ("medium", "shown"),
    [
        (Images(), np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3)),
        (Curves(), np.linspace(0, 1, 32).reshape(2, 16)),
        (Series(), np.linspace(0, 1, 32).reshape(2, 8, 2)),
        (Maps(), np.linspace(0, 1, 96).reshape(2, 4, 4, 3)),
        (Animation(), np.arange(192, dtype=np.uint8).reshape(2, 2, 4, 4, 3)),
    ],
    ids=["images", "curves", "series", "maps", "animation"],
)
def test_generated_pictures_say_so(tmp_path, medium, shown):
    medium.save(tmp_path / "one.png", shown[0])
    medium.sheet(tmp_path / "sheet.png", shown)
    medium.rows(tmp_path / "rows.png", shown[None], ["a", "b"])
    medium.over_time(tmp_path / "time.png", {1: tmp_path / "sheet.png"}, 2, shown.shape[1:])
    for name in ("one", "sheet", "rows", "time"):
        assert source_types(tmp_path / f"{name}.png") == GENERATED


def test_plots_do_not(tmp_path):
    """And the packet changes no pixel."""
    array = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    pictures.write(tmp_path / "plot.png", Image.fromarray(array))
    pictures.write_generated(tmp_path / "drawn.png", Image.fromarray(array))
    assert xmp_of(tmp_path / "plot.png") == []
    for name in ("plot", "drawn"):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"{name}.png")), array)
