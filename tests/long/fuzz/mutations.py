"""Damage to files, the same for the same number: of bytes, and of what a format is made of."""

import ast
import contextlib
import io
import json
import random
import struct
import zipfile
import zlib

NUMBERS = (
    0,
    1,
    -1,
    2,
    7,
    255,
    65535,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**64,
    10**12,
    -(10**12),
)
WIDE = (
    0,
    1,
    2**7,
    2**15,
    2**16 - 1,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    10**12,
    2**63 - 1,
    2**64 - 1,
)
NAMES = (
    *(
        "",
        ".",
        "..",
        "../outside",
        "../../outside.npy",
        "/tmp/outside",
        "a\0b",
        "a\nb\nc",
        "\x1b[2J",
    ),
    *("\ud800", "x" * 5000, "CON", "a/b", "~", "%s%n", "__class__", "a.b.c"),
)
VALUES = (
    *NUMBERS,
    *NAMES,
    *(None, True, False, 0.5, -0.0, 1e308, -1e308, float("nan"), float("inf"), 10**400),
    *([], {}, [[]], [None], {"": 0}, [0] * 100, ["../outside"], {"name": "os.system"}),
)
PICKLED = (
    b"cos\nsystem\n(S'touch outside'\ntR",
    b"cos\nmkdir\n(S'outside'\ntR",
    b"cbuiltins\neval\n(S'1'\ntR",
    b"\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R",
    b"K\x01" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(40)),
    b"\x96" + struct.pack("<Q", 10**12),
    b"B" + struct.pack("<I", 2**32 - 1),
    b"\x8a\xff",
    b"(" * 1000,
    b"]" + b"q\x00h\x00a" * 50,
)
SHAPES = (
    *("()", "(0,)", "(-1,)", "(10**12,)", "(1000000000000,)", "(1000000, 1000000)", "(2, -3)"),
    *("(2.5,)", "('a',)", "((1,),)", "None", "(9223372036854775807, 2)", "(0, 10000000000000)"),
    *("(True,)", f"({'1,' * 70})", "(" * 200 + ")" * 200, "[2]", "(1,)+(2,)"),
)
DTYPES = (
    *("'|O'", "'<f8'", "'>f4'", "'<f2'", "'|u1'", "'|b1'", "'<U4'", "'<U100000000'", "'|S0'"),
    *("'|V0'", "'<M8[ns]'", "'<m8[Y]'", "'<c16'", "'<f16'", "'<q'", "'?'", "''", "'x' * 9", "1"),
    *("[('a', '<f4')]", "[('a', '|O')]", "[('a', '<f4', (10**9,))]", "[]", "['<f4']", "None"),
)


def mutated(content: bytes, kind: str, rng: random.Random) -> bytes:
    """The file with one to three changes: of its bytes, or of what files of this kind are made of
    (`KINDS`)."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        change = KINDS[kind] if rng.random() < 0.75 else of_bytes
        try:
            content = change(content, rng)
        except Exception:  # an earlier change left nothing of that kind
            content = of_bytes(content, rng)
    return content


def of_bytes(content: bytes, rng: random.Random) -> bytes:
    """Cuts, flips, copies, moves or adds bytes, or writes a number over what may be a length."""
    data = bytearray(content)
    n, way = len(data), rng.randrange(8)
    at, size = rng.randrange(n + 1), rng.choice((1, 1, 2, 4, 8, 16, 100))
    if way == 0:
        del data[at:]
    elif way == 1:
        for _ in range(rng.choice((1, 1, 4, 20))):
            if data:
                data[rng.randrange(n)] ^= 1 << rng.randrange(8)
    elif way == 2:
        data[at : at + size] = rng.randbytes(size)
    elif way == 3:
        del data[at : at + size]
    elif way == 4:
        start = rng.randrange(n + 1)
        data[at:at] = data[start : start + rng.choice((4, 16, 64, 1024))]
    elif way == 5:
        width, order = rng.choice((2, 4, 8)), rng.choice("<>")
        number = rng.choice(WIDE) % 2 ** (8 * width)
        data[at : at + width] = struct.pack(order + {2: "H", 4: "I", 8: "Q"}[width], number)
    elif way == 6:
        data[at:at] = rng.choice(
            (b"\0" * size, b"\xff" * size, b"\n", b'"', b"\xef\xbb\xbf", b"(" * 2000)
        )
    else:
        data[at:at] = rng.choice((*PICKLED, b"PK\x03\x04", b"\x93NUMPY\x01\0", b"\x80\x04"))
    return bytes(data)


def of_json(content: bytes, rng: random.Random) -> bytes:
    """Another value, name or nesting, a name twice, or one that is missing."""
    tree = json.loads(content)
    way = rng.randrange(8)
    if way == 0:
        deep = rng.choice((50, 1000, 100_000))
        return rng.choice((b"[" * deep + b"]" * deep, b'{"a":' * deep + b"1" + b"}" * deep))
    if way == 1:
        return json.dumps(rng.choice(VALUES)).encode()
    places = list(_places(tree))
    if not places:
        return of_bytes(content, rng)
    for _ in range(rng.choice((1, 1, 2, 5))):
        parent, key = rng.choice(places)
        with contextlib.suppress(KeyError, IndexError):  # an earlier change removed it
            _change(parent, key, way, rng)
    text = json.dumps(tree)
    if way == 7 and isinstance(tree, dict) and tree:
        twice = f"{json.dumps(rng.choice(list(tree)))}: {json.dumps(rng.choice(VALUES))}"
        text = text[:-1] + f", {twice}}}"
    return text.encode("utf-8", "surrogatepass")


def _places(tree):
    pairs = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    for key, value in pairs:
        yield tree, key
        yield from _places(value)


def _change(parent, key, way, rng):
    value = parent[key]
    if way == 2:
        del parent[key]
    elif way == 3 and isinstance(parent, dict):
        parent[rng.choice((*NAMES, "name", "shape"))] = parent.pop(key)
    elif way == 4:
        parent[key] = [value] if rng.random() < 0.5 else {"a": value}
    elif way == 5 and isinstance(value, int | float) and not isinstance(value, bool):
        parent[key] = rng.choice(
            (value + 1, -value, value * 10**9, value / 2, value - 1, str(value))
        )
    elif way == 6 and isinstance(value, str) and value:
        at = rng.randrange(len(value))
        parent[key] = (
            value[:at]
            + rng.choice(("(", ")", "=", "'", ",", "\\", "", "()", "\n"))
            + value[at + 1 :]
        )
    else:
        parent[key] = rng.choice(VALUES)


def of_lines(content: bytes, rng: random.Random) -> bytes:
    """Lines twice, missing or in another order; other words and numbers in them."""
    lines = content.decode("latin-1").split("\n")
    at, way = rng.randrange(len(lines)), rng.randrange(6)
    if way == 0:
        del lines[at]
    elif way == 1:
        lines[at:at] = [lines[rng.randrange(len(lines))]] * rng.choice((1, 1, 200))
    elif way == 2:
        other = rng.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    elif way == 3:
        lines[at] = rng.choice(
            ("", " ", "\t", "\0", '"', "x" * 200_000, "\ufeff".encode().decode("latin-1"))
        )
    else:
        for mark in (",", " "):
            if mark in lines[at]:
                words = lines[at].split(mark)
                words[rng.randrange(len(words))] = str(rng.choice(VALUES))
                lines[at] = mark.join(words)
                break
    return "\n".join(lines).encode("latin-1", "replace")


def of_json_lines(content: bytes, rng: random.Random) -> bytes:
    """Of one line as `of_json`, or of the lines."""
    if rng.random() < 0.3:
        return of_lines(content, rng)
    lines = content.split(b"\n")
    at = rng.randrange(len(lines))
    lines[at] = of_json(lines[at], rng)
    return b"\n".join(lines)


def of_npy(content: bytes, rng: random.Random) -> bytes:
    """Another shape, dtype or version in the header of an array."""
    length = struct.unpack("<H", content[8:10])[0]
    header, numbers = ast.literal_eval(content[10 : 10 + length].decode()), content[10 + length :]
    said = {
        "descr": repr(header["descr"]),
        "fortran_order": "False",
        "shape": repr(header["shape"]),
    }
    said[rng.choice(("shape", "descr"))] = rng.choice((*SHAPES, *DTYPES))
    if rng.random() < 0.2:
        said["fortran_order"] = rng.choice(("True", "1", "None", "'no'"))
    if rng.random() < 0.1:
        del said[rng.choice(list(said))]
    text = f"{{{', '.join(f'{k!r}: {v}' for k, v in said.items())}}}".encode() + b"\n"
    start = rng.choice(
        (b"\x93NUMPY\x01\0", b"\x93NUMPY\x01\0", b"\x93NUMPY\x02\0", b"\x93NUMPY\x03\0")
    )
    size = struct.pack("<H" if start[6] == 1 else "<I", len(text) % 2**16)
    return start + size + text + numbers


def of_zip(content: bytes, rng: random.Random) -> bytes:
    """A member that is damaged, renamed, missing, twice or compressed, or says another size."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    at, way = rng.randrange(len(members)), rng.randrange(7)
    name, data = members[at]
    packed = zipfile.ZIP_STORED
    if way <= 2:
        kind = of_npy if name.endswith(".npy") else of_pickle if name.endswith(".pkl") else of_bytes
        members[at] = (name, kind(data, rng))
    elif way == 3:
        members[at] = (rng.choice(NAMES[:9]) + rng.choice(("", ".npy")), data)
    elif way == 4:
        del members[at]
    elif way == 5:
        members.append(members[rng.randrange(len(members))])
    else:
        packed, members[at] = zipfile.ZIP_DEFLATED, (name, data + bytes(3_000_000))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packed) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name.split("\0")[0] or "a"), data, packed)
    whole = bytearray(buffer.getvalue())
    if rng.random() < 0.2:  # the directory at the end says another size than there is
        place = whole.rfind(b"PK\x01\x02")
        struct.pack_into("<I", whole, place + rng.choice((20, 24)), rng.choice(WIDE) % 2**32)
    return bytes(whole)


def of_pickle(content: bytes, rng: random.Random) -> bytes:
    """Operations put in between others, which call, repeat or nest."""
    if rng.random() < 0.5:
        return of_bytes(content, rng)
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.choice(PICKLED) + content[at:]


def of_safetensors(content: bytes, rng: random.Random) -> bytes:
    """Another header, of the right length or not."""
    (size,) = struct.unpack("<Q", content[:8])
    header = of_json(content[8 : 8 + size], rng)
    length = rng.choice(WIDE) if rng.random() < 0.1 else len(header)
    return struct.pack("<Q", length % 2**64) + header + content[8 + size :]


def of_png(content: bytes, rng: random.Random) -> bytes:
    """Chunks that are damaged, missing, twice or in another order, each with its checksum."""
    chunks, place = [], 8
    while place + 8 <= len(content):
        (size,) = struct.unpack(">I", content[place : place + 4])
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + size]))
        place += 12 + size
    at, way = rng.randrange(len(chunks)), rng.randrange(6)
    kind, data = chunks[at]
    if way == 0:
        start = struct.pack(">II", *(rng.choice((*WIDE, 13_000, 40_000)) % 2**32 for _ in range(2)))
        chunks[0] = (chunks[0][0], start + chunks[0][1][8:])
    elif way == 1:
        chunks[at] = (kind, of_bytes(data, rng))
    elif way == 2:
        del chunks[at]
    elif way == 3:
        chunks.insert(rng.randrange(len(chunks)), (kind, data))
    elif way == 4:
        swelling = b"Comment\0\0" + zlib.compress(bytes(20_000_000))
        chunks.insert(
            1,
            rng.choice(((b"zTXt", swelling), (b"iCCP", swelling), (b"tEXt", b"a\0" + b"x" * 999))),
        )
    else:
        head = bytearray(chunks[0][1])
        head[8 + rng.randrange(5)] = rng.randrange(256)
        chunks[0] = (chunks[0][0], bytes(head))
    parts = (
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    )
    return content[:8] + b"".join(parts)


KINDS = {
    "bytes": of_bytes,
    "json": of_json,
    "json lines": of_json_lines,
    "lines": of_lines,
    "npy": of_npy,
    "pickle": of_pickle,
    "png": of_png,
    "safetensors": of_safetensors,
    "zip": of_zip,
}
