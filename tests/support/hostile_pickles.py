"""Hostile pickles by name: they execute code, use up memory or time, or are malformed."""

from __future__ import annotations

import io
import pickle
import random
import struct
import zipfile
from collections.abc import Iterator
from typing import Any


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def call(module: str, attribute: str, *args: bytes) -> bytes:
    return name(module, attribute) + b"(" + b"".join(args) + b"tR"


class Reduced:
    """An object whose pickle is a call of a function."""

    def __init__(self, function: Any, args: tuple[Any, ...], state: Any = None) -> None:
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> Any:
        return self.parts


def executing(canary: str) -> Iterator[tuple[str, bytes]]:
    """Yield pickles that make a file if Python's own unpickler reads them."""
    command = f"touch {canary}"
    for module, attribute in (
        ("os", "system"), ("posix", "system"), ("os", "popen"), ("subprocess", "getoutput"),
        ("subprocess", "call"), ("builtins", "eval"), ("builtins", "exec"),
        ("__builtin__", "eval"), ("builtins", "__import__"), ("pty", "spawn"),
        ("runpy", "run_path"), ("importlib", "import_module"), ("torch", "load"),
        ("numpy", "load"), ("pickle", "loads"), ("cloudpickle", "loads"),
        ("ray.cloudpickle", "loads"), ("ray", "init"), ("code", "interact"),
        ("numpy.testing._private.utils", "runstring"), ("timeit", "timeit"),
    ):  # fmt: skip
        said = f"__import__('os').system({command!r})" if "eval" in attribute else command
        yield f"{module}.{attribute} by reduce", call(module, attribute, text(said)) + b"."
        inst = b"(" + text(said) + f"i{module}\n{attribute}\n".encode() + b"."
        yield f"{module}.{attribute} by inst", inst
        yield f"{module}.{attribute} by obj", b"(" + name(module, attribute) + text(said) + b"o."
        newobj = name(module, attribute) + b"(" + text(said) + b"t\x81."
        yield f"{module}.{attribute} by newobj", b"\x80\x02" + newobj
        stack = b"\x80\x04" + text(module) + text(attribute) + b"\x93(" + text(said) + b"tR."
        yield f"{module}.{attribute} by stack_global", stack
    yield "as a weight", b"\x80\x02}" + text("weights") + b"}" + text("w") + call(
        "os", "system", text(command)) + b"ss."  # fmt: skip
    yield "as a key", b"}" + call("os", "system", text(command)) + b"K\x01s."
    yield "as a state", pickle.dumps(Reduced(complex, (1.0, 2.0))) [:-1] + b"}" + text(
        "__setstate__") + call("os", "system", text(command)) + b"sb."  # fmt: skip
    yield "by the arguments of a known call", call(
        "collections", "OrderedDict", call("os", "system", text(command))) + b"."  # fmt: skip
    inner = call("os", "system", text(command)) + b"."
    yield "a pickle in bytes for pickle.loads", b"\x80\x03" + name("pickle", "loads") + b"(B" + (
        struct.pack("<I", len(inner)) + inner) + b"tR."  # fmt: skip
    shell = name("numpy.core.multiarray", "_reconstruct") + b"(" + name("numpy", "ndarray")
    shell += b"(K\x00t" + text("b") + b"tR"
    state = b"(K\x01(K\x01t" + call("numpy", "dtype", text("O8")) + b"\x89(" + inner[:-1] + b"lt"
    yield "an array of objects", b"\x80\x02" + shell + state + b"b."
    yield "an extension code", b"\x82\x01."
    yield "a persistent id", text(command) + b"Q."
    yield "getattr of getattr", call(
        "builtins", "getattr", call("builtins", "getattr", name("os", "path"), text("os")),
        text("system")) + b"(" + text(command) + b"tR."  # fmt: skip
    yield "a dotted name", b"\x80\x04" + text("os") + text("path.os.system") + b"\x93(" + text(
        command) + b"tR."  # fmt: skip


def exhausting() -> Iterator[tuple[str, bytes]]:
    """Yield pickles that need far more memory or time than their length suggests."""
    for code, form in ((b"B", "<I"), (b"\x8e", "<Q"), (b"X", "<I"), (b"\x8d", "<Q"), (b"T", "<i"),
                       (b"\x96", "<Q"), (b"\x8b", "<i")):  # fmt: skip
        largest = (1 << (8 * struct.calcsize(form) - 1)) - 1
        yield f"0x{code.hex()} of {largest} bytes", code + struct.pack(form, largest) + b"abc."
    yield "a negative length", b"T" + struct.pack("<i", -5) + b"abc."
    yield "a frame beyond the file", b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N."
    yield "a memo at 4 billion", b"Nr" + struct.pack("<I", (1 << 32) - 1) + b"."
    yield "a memo at a number without end", b"Np" + b"9" * 100_000 + b"\n."
    yield "billion laughs of lists", b"]q\0" + b"".join(
        b"](" + b"h" + bytes([i]) * 1 + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(200)
    ) + b"."  # fmt: skip
    yield "billion laughs of tuples", b")q\0" + b"".join(
        b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(200)
    ) + b"."  # fmt: skip
    yield "billion laughs as a key", b")q\x000" + b"".join(
        b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) + b"0" for i in range(100)
    ) + b"}h\x64Ns."  # fmt: skip
    yield "billion laughs of dicts as weights", b"}q\xff}q\0" + b"".join(
        b"}(" + b"".join(text(f"k{j}") + b"h" + bytes([i]) for j in range(10)) + b"uq" + bytes([i + 1])
        for i in range(100)
    ) + text("weights") + b"h\x64" + b"s."  # fmt: skip
    yield "nested without end", b"]" * 1_000_000 + b"a" * 999_999 + b"."
    yield "tuples nested without end", b")" + b"\x85" * 1_000_000 + b"."
    yield "a list in itself", b"]q\0h\0a."
    yield "a dict in itself", b"}q\0" + text("weights") + b"h\0s."
    yield "copies of a long list", b"](" + b"N" * 50_000 + b"eq\0" + (
        name("builtins", "set") + b"(h\0tR0" ) * 2000 + b"N."  # fmt: skip
    yield "copies of long bytes", b"B" + struct.pack("<I", 1 << 20) + b"x" * (1 << 20) + b"q\0" + (
        name("builtins", "bytearray") + b"(h\0tR" ) * 5000 + b"N."  # fmt: skip
    yield "integers of one hash", b"}(" + b"".join(
        b"\x8a\x20" + ((2**61 - 1) * i).to_bytes(32, "little") + b"N" for i in range(1, 30_000)
    ) + b"u."  # fmt: skip
    yield "a decimal of a million digits", b"I" + b"7" * 1_000_000 + b"\n."
    yield "a long of a million digits", b"L" + b"7" * 1_000_000 + b"L\n."
    yield "a line without end", b"V" + b"x" * 5_000_000
    yield "marks without end", b"(" * 2_000_000 + b"."
    yield "six million operations", b"N0" * 3_000_000 + b"N."
    dtype = call("numpy", "dtype", text("f8"))
    for shape in (b"(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ft", b"(K\x00J\xff\xff\xff\x7ft", b"(Jx\xff\xff\xfft",
                  b"(" + b"K\x01" * 100 + b"t", b"N"):  # fmt: skip
        yield f"an array of shape {shape.hex()[:20]}", (
            b"\x80\x03" + name("numpy.core.numeric", "_frombuffer") + b"(C\x08abcdefgh" + dtype
            + shape + text("C") + b"tR."
        )  # fmt: skip
    for code in ("O", "O8", "V8", "U1000000000", "S1000000000", "M8[ns]", "f3", "f4,f4", "(1000,)f4",
                 "{'names': ['a']}", "i9", ""):  # fmt: skip
        yield f"a dtype {code!r}", (
            b"\x80\x03" + name("numpy.core.numeric", "_frombuffer") + b"(C\x08abcdefgh"
            + call("numpy", "dtype", text(code)) + b"(K\x01t" + text("C") + b"tR."
        )  # fmt: skip


def malformed() -> Iterator[tuple[str, bytes]]:
    """Yield bytes that are not valid pickles."""
    for what in (b"", b".", b"N", b"(.", b"a.", b"R.", b"b.", b"s.", b"u.", b"t.", b"0.", b"1.", b"2.",
                 b"h\0.", b"g5\n.", b"gx\n.", b"\x80\x09N.", b"\xffN.", b"I\n.", b"Ix\n.", b"F\n.",
                 b"Fx\n.", b"S'a\n.", b"Sa\n.", b"V\\u12\n.", b"NNR.",   b"(o.",
                 b"N}b.", b"]N}s.",  b"}](eu.", b"}(Nu.", b"]Ns.", b"NNs.", b"N(Ne.", b"N(N\x90.",
                 b"cos\n", b"c\xff\n\xff\n.", b"NN\x93.", b"(NNN\x93.", b"\x94.", b"q\0.", b"\x8f]a.",
                 b"\x8f(]\x90.", b"(]\x91.", b"\x97.", b"\x98.", b"P\n", b"X\xff\xff\xff\xff.",
                 b"X\x02\0\0\0\xff\xff.", b"\x8c\x02\xc3(.", b"G\0\0.", b"J\0.", b"\x8a\x05\0."):  # fmt: skip
        yield repr(what), what


def torch_files() -> Iterator[tuple[str, bytes]]:
    """Yield zip files like those of torch.save, each with something wrong."""

    def archive(pickled: bytes, data: dict[str, bytes], **how: Any) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", **how) as opened:
            for key, value in {"a/data.pkl": pickled, **data}.items():
                # One date: the bytes are part of the tests' ids, which all processes must agree on.
                info = zipfile.ZipInfo(key, date_time=(2020, 1, 1, 0, 0, 0))
                info.compress_type = opened.compression
                opened.writestr(info, value)
        return buffer.getvalue()

    def tensor(
        offset: int, shape: tuple[int, ...], strides: tuple[int, ...], key: str = "0"
    ) -> bytes:
        def numbers(values: tuple[int, ...]) -> bytes:
            return b"(" + b"".join(pickle.dumps(v, 2)[2:-1] for v in values) + b"t"

        identity = b"(" + text("storage") + name("torch", "FloatStorage") + text(key) + text(
            "cpu") + b"K\x04tQ"  # fmt: skip
        return (
            b"\x80\x02}" + text("w") + name("torch._utils", "_rebuild_tensor_v2") + b"(" + identity
            + pickle.dumps(offset, 2)[2:-1] + numbers(shape) + numbers(strides) + b"\x89NtRs."
        )  # fmt: skip

    four = {"a/data/0": b"\0" * 16}
    yield "whole", archive(tensor(0, (2, 2), (2, 1)), four)
    for what, pickled in (
        ("beyond its storage", tensor(0, (5,), (1,))),
        ("strided beyond its storage", tensor(0, (2, 2), (100, 1))),
        ("with an offset beyond", tensor(100, (1,), (1,))),
        ("with a negative offset", tensor(-1, (1,), (1,))),
        ("with a negative stride", tensor(3, (2,), (-1,))),
        ("one element as a billion", tensor(0, (1 << 30,), (0,))),
        ("of shape beyond 64 bits", tensor(0, (1 << 40, 1 << 40), (0, 0))),
        ("of no storage", tensor(0, (1,), (1,), "none")),
        ("that calls", b"\x80\x02" + call("os", "system", text("true")) + b"."),
        ("that stores nothing it can have", b"\x80\x02" + text("x") + b"Q."),
    ):
        yield f"a tensor {what}", archive(pickled, four)
    yield (
        "compressed",
        archive(
            tensor(0, (1 << 22,), (1,)),
            {"a/data/0": b"\0" * (1 << 24)},
            compression=zipfile.ZIP_DEFLATED,
        ),
    )
    noise = random.Random(0).randbytes(1 << 20)  # so that the whole is longer than what is inside
    yield (
        "compressed a little",
        archive(
            tensor(0, (2, 2), (2, 1)), {**four, "a/noise": noise}, compression=zipfile.ZIP_DEFLATED
        ),
    )
    yield "with no pickle", archive(b"", {})[:50] + archive(b"", {})
    whole = archive(tensor(0, (2, 2), (2, 1)), four)
    for cut in (10, len(whole) // 2, len(whole) - 1):
        yield f"cut at {cut}", whole[:cut]
    yield "two pickles", archive(tensor(0, (1,), (1,)), {**four, "b/data.pkl": b"N."})
