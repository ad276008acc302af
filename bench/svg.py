"""Pictures as SVG: what bench.pictures needs of it, and no more."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Spots = Iterable[tuple[float, float]]

INK: Final = "#1f2937"
DIM: Final = "#6b7280"
BLUE: Final = "#2563eb"
GREEN: Final = "#059669"
ORANGE: Final = "#ea580c"
RED: Final = "#dc2626"
PAPER: Final = "#ffffff"


def number(value: float) -> str:
    """Two decimals at most: a hundredth of a pixel."""
    return f"{value:.2f}".rstrip("0").rstrip(".") or "0"


class Drawing:
    """One picture on white. Names of styles are those of SVG, `_` for `-`."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" font-family="Helvetica, Arial, sans-serif">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
        ]
        self._clips = 0

    def add(self, name: str, body: str = "", **attributes: Any) -> None:
        words = [name]
        for key, value in attributes.items():
            said = number(value) if isinstance(value, float) else escape(str(value))
            words.append(f'{key.replace("_", "-")}="{said}"')
        end = f">{body}</{name}>" if body else "/>"
        self._parts.append(f"<{' '.join(words)}{end}")

    def text(self, x: float, y: float, said: str, size: int = 13, **styles: Any) -> None:
        styles = {"fill": INK} | styles
        self.add("text", escape(said), x=float(x), y=float(y), font_size=size, **styles)

    def label(self, x: float, y: float, said: str, colour: str = INK, size: int = 14) -> None:
        """Text on a white patch, to lie on pictures."""
        wide = 0.6 * size * len(said) + 8
        self.rect(x - 4, y - size, wide, size + 5, fill=PAPER, fill_opacity=0.85, rx=3)
        self.text(x, y, said, size, fill=colour, font_weight="bold")

    def line(self, spots: Spots, colour: str = INK, width: float = 1.0, **styles: Any) -> None:
        d = "M" + "L".join(f"{number(x)} {number(y)}" for x, y in spots)
        self.add("path", d=d, fill="none", stroke=colour, stroke_width=width, **styles)

    def lines(self, many: Iterable[Spots], colour: str, width: float, **styles: Any) -> None:
        """Many lines as one path."""
        d = "".join("M" + "L".join(f"{number(x)} {number(y)}" for x, y in spots) for spots in many)
        self.add("path", d=d, fill="none", stroke=colour, stroke_width=width, **styles)

    def dots(self, spots: Spots, radius: float, colour: str, **styles: Any) -> None:
        for x, y in spots:
            self.add("circle", cx=float(x), cy=float(y), r=radius, fill=colour, **styles)

    def rect(self, x: float, y: float, w: float, h: float, **styles: Any) -> None:
        self.add("rect", x=float(x), y=float(y), width=float(w), height=float(h), **styles)

    def picture(self, pixels: Pixels, x: float, y: float, w: float, h: float) -> None:
        """Pixels as squares: small pictures, colours."""
        times = max(1, round(w / pixels.shape[1]))
        large = pixels.repeat(times, axis=0).repeat(times, axis=1)
        self._embed(large, "PNG", x, y, w, h, optimize=True)

    def photograph(
        self, luma: Pixels, x: float, y: float, w: float, h: float, quality: int = 60
    ) -> None:
        self._embed(luma, "JPEG", x, y, w, h, quality=quality)

    def _embed(
        self, pixels: Pixels, kind: str, x: float, y: float, w: float, h: float, **options: Any
    ) -> None:
        out = io.BytesIO()
        image = Image.fromarray(pixels)
        if kind == "PNG" and pixels.ndim == 3:
            image = image.quantize(32, dither=Image.Dither.NONE)
        image.save(out, kind, **options)
        data = base64.b64encode(out.getvalue()).decode()
        href = f"data:image/{kind.lower()};base64,{data}"
        self.add(
            "image", x=float(x), y=float(y), width=float(w), height=float(h),
            preserveAspectRatio="none", href=href,
        )  # fmt: skip

    def begin(self, x: float, y: float, w: float = 0.0, h: float = 0.0) -> None:
        """A part with an origin of its own; with w and h nothing outside them shows."""
        clip = ""
        if w:
            self._clips += 1
            name = f"c{self._clips}"
            inside = f'<rect width="{number(w)}" height="{number(h)}"/>'
            self._parts.append(f'<clipPath id="{name}">{inside}</clipPath>')
            clip = f' clip-path="url(#{name})"'
        self._parts.append(f'<g transform="translate({number(x)} {number(y)})"{clip}>')

    def end(self) -> None:
        self._parts.append("</g>")

    def save(self, path: Path) -> None:
        path.write_text("\n".join([*self._parts, "</svg>", ""]), encoding="utf-8")
