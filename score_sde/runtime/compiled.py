"""What a compiled program does on a device, read from XLA's text of it (`compiled.as_text()`).

XLA's own `cost_analysis` counts a loop's body once, and on a TPU counts arrays that stay in the
memory of the core as if they were read from the device's memory. Here a loop counts as often as it
runs, if its text says how often. Arrays in the memory of the core are left out.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
PRODUCTS = ("convolution", "dot")

# these name arrays that are there already, or stand for the instructions that they call
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"),
    *("while", "conditional", "call", "partition-id", "replica-id", "opt-barrier"),
}
_COPIES = {"copy", "transpose", "slice", "dynamic-slice", "dynamic-update-slice", "concatenate"}
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_CALLS = re.compile(
    r"\b(?:calls|body|(?:true|false)_computation|branch_computations)="
    r"\{?(%[^\s},]+(?:, %[^\s},]+)*)"
)
_CALL = re.compile(r"\bto_apply=(%[^\s},]+)")
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_CONDITION = re.compile(r"condition=(%[^\s,]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class ArrayLayout(NamedTuple):
    """An array. layout: XLA's, such as "1,0:T(8,128)S(1)"."""

    dtype: str
    sizes: tuple[int, ...]
    layout: str

    @property
    def bytes(self) -> int:
        """Those of its numbers."""
        return math.prod(self.sizes) * self._width // 8

    @property
    def held(self) -> int:
        """The bytes it takes as it lies, with the padding to whole tiles."""
        order, _, rest = self.layout.partition(":")
        sizes = [self.sizes[int(i)] for i in reversed(order.split(",")) if i]
        found = re.search(r"T\(([\d,]+)\)", rest)
        tile = [int(n) for n in reversed(found[1].split(","))] if found else []
        for i, n in zip(range(len(sizes)), tile, strict=False):
            sizes[-1 - i] = math.ceil(sizes[-1 - i] / n) * n
        return math.prod(sizes) * self._width // 8

    @property
    def in_memory(self) -> bool:
        """Whether it lies in the device's memory (HBM), and not in the core's."""
        return not re.search(r"S\([1-9]", self.layout)

    @property
    def _width(self) -> int:
        found = re.search(r"\d+", self.dtype)
        return int(found[0]) if found else 8


class Instruction(NamedTuple):
    """shapes: of its results. operands: the names of what it reads. text: all of it."""

    name: str
    shapes: tuple[ArrayLayout, ...]
    opcode: str
    operands: tuple[str, ...]
    text: str


class Moved(NamedTuple):
    """How many times, and how many bytes in all."""

    count: int = 0
    bytes: int = 0

    def more(self, count: int, each: int) -> Moved:
        """With `count` more of `each` bytes."""
        return Moved(self.count + count, self.bytes + count * each)


class Program:
    """The computations of a program: `{name: {name: instruction}}`, the first being `entry`."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ""
        inside: dict[str, Instruction] = {}
        for line in text.splitlines():
            if header := re.match(r"(ENTRY )?(%[^\s(]+) .*\{$", line):
                inside = self.computations[header[2]] = {}
                self.entry = header[2] if header[1] else self.entry
            elif " = " in line and (found := _instruction(line)):
                inside[found.name] = found

    def runs(self) -> dict[str, int]:
        """How often each computation runs, fused ones included; a branch that may be taken counts
        as taken."""
        times: Counter[str] = Counter()

        def visit(name: str, count: int) -> None:
            times[name] += count
            for found in self.computations[name].values():
                trips = self._trips(found) if found.opcode == "while" else 1
                for called in _called(found):
                    visit(called, count * trips)

        visit(self.entry, 1)
        return times

    def _trips(self, loop: Instruction) -> int:
        """How often the body of a loop runs. Where XLA does not say so, a loop counts from 0 to the
        constant that its condition compares with, as those of `lax.scan` do; else it is 1."""
        if stated := _TRIPS.search(loop.text):
            return int(stated[1])
        condition = self.computations[_CONDITION.findall(loop.text)[0]]
        for found in condition.values():
            inside = (a for name in _called(found) for a in self.computations[name].values())
            if any(a.opcode == "compare" and "direction=LT" in a.text for a in (found, *inside)):
                end = condition.get(found.operands[-1])
                if end is not None and end.opcode == "constant":
                    return int(end.text[1 : end.text.index(")")])
        return 1

    def collectives(self) -> dict[str, Moved]:
        """By kind, those of one run. Bytes are those of the whole array on a device: what an
        all-gather gives, what a reduce-scatter takes."""
        moved: defaultdict[str, Moved] = defaultdict(Moved)
        fused, seen = self._fused(), set()
        for name, count, found in self._all():
            kind = found.opcode.removesuffix("-start")
            if kind not in COLLECTIVES:
                continue
            if name in fused and (channel := _CHANNEL.search(found.text)):
                # a TPU writes one that goes on beside products into three fusions
                if channel[1] in seen:
                    continue
                seen.add(channel[1])
            # a TPU's reduce-scatter is written as an all-reduce of which a part is kept
            if kind == "all-reduce" and "all-reduce-scatter" in name:
                kind = "reduce-scatter"
            results = found.shapes
            if found.opcode.endswith("-start"):
                inside = self.computations[name].values()
                results = next(a for a in inside if found.name in a.operands).shapes
            sizes = (sum(a.bytes for a in s) for s in (self._read(name, found), results))
            moved[kind] = moved[kind].more(count, max(sizes))
        return {kind: moved[kind] for kind in COLLECTIVES if kind in moved}

    def products(self) -> dict[str, int]:
        """The number of convolutions and products of matrices, by the dtypes of their operands."""
        found = Counter()
        for name, count, each in self._all():
            if each.opcode in PRODUCTS:
                read = self._read(name, each)
                found[" x ".join(shape.dtype for shape in read)] += count
        return dict(found)

    def flops(self) -> int:
        """Multiplications and additions of all convolutions and products of matrices."""
        return sum(
            count * _flops(each, *self._read(name, each))
            for name, count, each in self._all()
            if each.opcode in PRODUCTS
        )

    def traffic(self) -> dict[str, Moved]:
        """How many instructions read or write the device's memory, and how many bytes with their
        padding: by what they compute, the most first. A fusion counts by its costliest part."""
        fused = self._fused()
        moved: defaultdict[str, Moved] = defaultdict(Moved)
        for name, count, found in self._all():
            if name in fused or found.opcode in _FREE or found.opcode.endswith("-done"):
                continue
            size = sum(a.held for a in self._touched(name, found) if a.in_memory)
            if size:
                kind = self._kind(found)
                moved[kind] = moved[kind].more(count, size)
        return dict(sorted(moved.items(), key=lambda item: -item[1].bytes))

    def _all(self) -> Iterator[tuple[str, int, Instruction]]:
        for name, count in self.runs().items():
            for found in self.computations[name].values():
                yield name, count, found

    def _fused(self) -> set[str]:
        return {name for _, _, a in self._all() if a.opcode == "fusion" for name in _called(a)}

    def _read(self, computation: str, found: Instruction) -> list[ArrayLayout]:
        inside = self.computations[computation]
        return [shape for name in found.operands if name in inside for shape in inside[name].shapes]

    def _touched(self, computation: str, found: Instruction) -> list[ArrayLayout]:
        if found.opcode in ("copy-start", "slice-start"):  # result and source, or source and result
            arrays = [shape for shape in found.shapes if shape.sizes]
            part = min(arrays, key=lambda shape: shape.held)
            return [part._replace(layout=a.layout) for a in arrays]
        inside = self.computations[computation]
        reads = [inside[name] for name in found.operands if name in inside]
        if found.opcode == "dynamic-slice":
            return [*found.shapes, *found.shapes]
        if found.opcode == "dynamic-update-slice":
            return [*reads[1].shapes, *reads[1].shapes]
        if found.opcode == "fusion":
            return self._touched_by_fusion(found, reads)
        return [shape for one in (*reads, found) for shape in one.shapes]

    def _touched_by_fusion(
        self, fusion: Instruction, reads: list[Instruction]
    ) -> list[ArrayLayout]:
        """Of an array that a fusion takes a slice of, or that it changes a slice of in place, as
        loops do, the slice alone."""
        inside = self.computations[_called(fusion)[0]]
        parameters = {}
        for found in inside.values():
            if found.opcode == "parameter":
                parameters[int(found.text[1 : found.text.index(")")])] = found.name
        touched = []
        for i, read in enumerate(reads):
            users = [a for a in inside.values() if parameters.get(i) in a.operands[:1]]
            others = [a for a in inside.values() if parameters.get(i) in a.operands[1:]]
            kinds = {a.opcode for a in users}
            if others or not kinds or kinds - {"dynamic-slice", "dynamic-update-slice"}:
                touched += read.shapes
            else:
                slices = [a.shapes[0] for a in users if a.opcode == "dynamic-slice"]
                touched += [a._replace(layout=read.shapes[0].layout) for a in slices]
        root = list(inside.values())[-1]
        results = [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]
        for result, shape in zip(results, fusion.shapes, strict=False):
            if result.opcode == "dynamic-update-slice":
                shape = inside[result.operands[1]].shapes[0]._replace(layout=shape.layout)
            touched.append(shape)
        return touched

    def _kind(self, found: Instruction) -> str:
        opcode = found.opcode.removesuffix("-start")
        parts = {opcode} if opcode != "fusion" else self._opcodes(found)
        if parts & set(COLLECTIVES):
            return "collectives"
        if parts & set(PRODUCTS):
            return "products"
        if opcode in _COPIES or parts <= {*_COPIES, *_FREE, "convert", "pad", "reshape"}:
            return "copies"
        return "reductions" if parts & {"reduce", "reduce-window"} else "elementwise"

    def _opcodes(self, found: Instruction) -> set[str]:
        inside = [a for name in _called(found) for a in self.computations[name].values()]
        nested = (self._opcodes(a) for a in inside if a.opcode == "fusion")
        return {a.opcode for a in inside if a.opcode != "fusion"}.union(*nested)


def _flops(product: Instruction, left: ArrayLayout, right: ArrayLayout) -> int:
    """2 for each pair of numbers that are multiplied."""
    result = product.shapes[0].sizes
    if found := re.search(r"lhs_contracting_dims=\{([\d,]*)\}", product.text):
        terms = math.prod(left.sizes[int(i)] for i in found[1].split(",") if i)
        return 2 * terms * math.prod(result)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", product.text)
    if labels is None:
        raise ValueError(f"a convolution without dim_labels: {product.text[:200]}")
    of_left, of_right, of_result = (
        dict(zip(names, sizes, strict=True))
        for names, sizes in zip(labels.groups(), (left.sizes, right.sizes, result), strict=True)
    )
    terms = of_right["i"] * of_result["b"] * of_result["f"]
    for i, axis in enumerate(sorted(name for name in of_left if name.isdigit())):
        terms *= _pairs(_Window.of(product.text, i), of_left[axis], of_result[axis])
    return 2 * terms


class _Window(NamedTuple):
    """Of a convolution along one axis, as XLA writes it."""

    size: int
    stride: int
    low: int
    spread: int
    holes: int

    @classmethod
    def of(cls, text: str, axis: int) -> _Window:
        """That of an axis."""

        def field(name: str, default: str) -> str:
            found = re.search(rf"window=\{{[^}}]*\b{name}=([\dx_-]+)", text)
            return found[1].split("x")[axis] if found else default

        sizes = (field(name, "1") for name in ("size", "stride", "lhs_dilate", "rhs_dilate"))
        size, stride, spread, holes = map(int, sizes)
        return cls(size, stride, int(field("pad", "0_0").partition("_")[0]), spread, holes)


def _pairs(window: _Window, count: int, results: int) -> int:
    """How many pairs of a place of the result and of the window meet one of `count` numbers, and
    neither a padding nor the zeros between numbers. On TPUs batches of products are convolutions of
    which most pairs are of zeros."""
    places = np.arange(results)[:, None] * window.stride - window.low
    places = places + np.arange(window.size)[None] * window.holes
    inside = (places >= 0) & (places <= (count - 1) * window.spread)
    return int(np.sum(inside & (places % window.spread == 0)))


def _called(found: Instruction) -> list[str]:
    """The computations that an instruction runs, but for the operation of a reduction."""
    pattern = _CALLS if found.opcode != "call" else _CALL
    return [name for names in pattern.findall(found.text) for name in names.split(", ")]


def _instruction(line: str) -> Instruction | None:
    """`[ROOT] %name = shape opcode(operands), attributes`."""
    name, _, rest = line.strip().removeprefix("ROOT ").partition(" = ")
    end = _closed(rest) if rest.startswith("(") else rest.find(" ")
    opcode, paren, _ = rest[end:].strip().partition("(")
    if not name.startswith("%") or not paren:
        return None
    arguments = rest[rest.index(f"{opcode}(", end) + len(opcode) :]
    operands = re.findall(r"%[^\s,()]+", arguments[: _closed(arguments)])
    return Instruction(name, _shapes(rest[:end]), opcode, tuple(operands), arguments)


def _shapes(text: str) -> tuple[ArrayLayout, ...]:
    return tuple(
        ArrayLayout(dtype, tuple(int(n) for n in sizes.split(",") if n), layout)
        for dtype, sizes, layout in _ARRAY.findall(text)
    )


def _closed(text: str) -> int:
    """Where the parenthesis that text begins with is closed."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return i + 1
    return len(text)
