"""Builds the Cython kernels in native/; everything else is in pyproject.toml.

Switches are environment variables, so that they work through pip as well:
NATIVE_KIND=release|checked|sanitize|trace, NATIVE_ANNOTATE=1 (native/README.md).
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup

KINDS = {
    "release": ["-O3", "-g0"],
    # -UNDEBUG brings the assertions back that Python's own flags switch off.
    "checked": ["-O2", "-g", "-UNDEBUG", "-Werror"],
    "sanitize": [
        "-O1",
        "-g",
        "-UNDEBUG",
        "-Werror",
        "-fno-omit-frame-pointer",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=undefined",
    ],
    "trace": ["-O0", "-g"],
}
KIND = os.environ.get("NATIVE_KIND", "release")
if KIND not in KINDS:
    sys.exit(f"NATIVE_KIND={KIND}: known kinds are {', '.join(KINDS)}")
LINK = ["-fsanitize=address,undefined"] if KIND == "sanitize" else []
MACROS = (
    [("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")]
    if KIND == "trace"
    else []
)
CHECKS = KIND != "release"

# Hand-written C per extension; a .pyx not named here has none.
C_SOURCES = {
    "native.cpu": ["cpu.c"],
    "native.hmac": ["sha256.c", "sha256_ni.c"],
    "native.stream": ["stream.c", "stream_scalar.c", "stream_avx2.c"],
    "native.dedup": ["seen.c", "seen_scalar.c", "seen_avx2.c", "seen_neon.c"],
    "native.qr.luma": ["luma_scalar.c", "luma_avx2.c", "luma_neon.c"],
    "native.jpeg.luma": [
        "jpeg_idct.c",
        "jpeg_idct_scalar.c",
        "jpeg_idct_avx2.c",
        "jpeg_idct_neon.c",
    ],
}
HEADERS = [str(path) for path in sorted(Path("native/src").glob("*.h"))]


def extension(pyx: Path) -> Extension:
    """One extension for one .pyx, with the C files that belong to it."""
    name = ".".join(pyx.with_suffix("").parts)
    return Extension(
        name,
        [str(pyx), *(f"native/src/{source}" for source in C_SOURCES.get(name, []))],
        include_dirs=["native/src"],
        depends=HEADERS,
        define_macros=MACROS,
        extra_compile_args=[
            "-std=c11",
            "-Wall",
            "-Wextra",
            "-Wno-unused-parameter",
            "-fvisibility=hidden",
            *KINDS[KIND],
        ],
        extra_link_args=LINK,
    )


def extensions() -> list[Extension]:
    """All extensions, translated to C; a warning or a performance hint of Cython is an error.

    Hints ("exception check ... will always require the GIL") are no errors even with
    warning_errors, so what Cython prints is read here.
    """
    Options.warning_errors = True
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            found: list[Extension] = cythonize(
                [extension(pyx) for pyx in sorted(Path("native").rglob("*.pyx"))],
                # Line coverage needs the generated C beside the source; nothing else does.
                build_dir=None if KIND == "trace" else f"build/cython-{KIND}",
                annotate=os.environ.get("NATIVE_ANNOTATE") == "1",
                compiler_directives={
                    "language_level": 3,
                    "freethreading_compatible": False,
                    "binding": True,
                    "embedsignature": True,
                    "autotestdict": False,
                    # These two change results, so every kind has them alike.
                    "cdivision": True,
                    "wraparound": False,
                    "boundscheck": CHECKS,
                    "initializedcheck": CHECKS,
                    "nonecheck": CHECKS,
                    "overflowcheck": False,
                    "linetrace": KIND == "trace",
                },
            )
    finally:
        sys.stderr.write(printed.getvalue())
    if "performance hint" in printed.getvalue():
        sys.exit("Cython gave a performance hint (above); hints are errors here")
    return found


setup(ext_modules=extensions())
