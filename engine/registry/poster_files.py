"""Posters as files: SVG, PNG and PDF of a Page. The fonts come along, so that Vietnamese looks the
same on every machine and printer."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Sequence
from typing import Final
from xml.sax.saxutils import escape

from PIL import Image, ImageDraw, ImageFont

from engine.registry.poster import FONT_FILES, PT_MM, Page

DPI: Final = 300
_NAMES: Final = {False: "ChotSans", True: "ChotSansBold"}


def page_to_svg(page: Page) -> str:
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{page.width}mm" '
        f'height="{page.height}mm" viewBox="0 0 {page.width} {page.height}" '
        'shape-rendering="crispEdges">',
        f"<style>{_faces()}</style>",
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    for box in page.boxes:
        level = round(box.grey * 255)
        parts.append(
            f'<rect x="{box.x:.3f}" y="{box.y:.3f}" width="{box.width:.3f}" '
            f'height="{box.height:.3f}" fill="#{level:02x}{level:02x}{level:02x}"/>'
        )
    for line in page.texts:
        anchor = ' text-anchor="middle"' if line.middle else ""
        parts.append(
            f'<text x="{line.x:.3f}" y="{line.y:.3f}" font-size="{line.size_pt * PT_MM:.3f}" '
            f'font-family="{_NAMES[line.is_bold]}"{anchor}>{escape(line.text)}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


def page_to_png(page: Page, dpi: int = DPI) -> bytes:
    k = dpi / 25.4
    image = Image.new("L", (round(page.width * k), round(page.height * k)), 255)
    draw = ImageDraw.Draw(image)
    for box in page.boxes:
        right, foot = round((box.x + box.width) * k), round((box.y + box.height) * k)
        left, top = round(box.x * k), round(box.y * k)
        draw.rectangle((left, top, max(left, right - 1), max(top, foot - 1)), round(box.grey * 255))
    for line in page.texts:
        font = ImageFont.truetype(FONT_FILES[line.is_bold], line.size_pt * PT_MM * k)
        draw.text((line.x * k, line.y * k), line.text, 0, font, "ms" if line.middle else "ls")
    out = io.BytesIO()
    image.save(out, "PNG", dpi=(dpi, dpi), optimize=True)
    return out.getvalue()


def pages_to_pdf(pages: Sequence[Page], title: str) -> bytes:
    """One file with a page each; text stays text, so it can be searched and copied."""
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont
    from reportlab.pdfgen.canvas import Canvas

    for is_bold, name in _NAMES.items():
        pdfmetrics.registerFont(TTFont(name, str(FONT_FILES[is_bold])))
    out = io.BytesIO()
    canvas = Canvas(out, invariant=True)
    canvas.setTitle(title)
    for page in pages:
        canvas.setPageSize((page.width / PT_MM, page.height / PT_MM))
        for box in page.boxes:
            canvas.setFillGray(box.grey)
            y = page.height - box.y - box.height
            canvas.rect(
                box.x / PT_MM, y / PT_MM, box.width / PT_MM, box.height / PT_MM,
                stroke=0, fill=1,
            )  # fmt: skip
        canvas.setFillGray(0)
        for line in page.texts:
            canvas.setFont(_NAMES[line.is_bold], line.size_pt)
            put = canvas.drawCentredString if line.middle else canvas.drawString
            put(line.x / PT_MM, (page.height - line.y) / PT_MM, line.text)
        canvas.showPage()
    canvas.save()
    return out.getvalue()


@functools.cache
def _faces() -> str:
    faces = []
    for is_bold, name in _NAMES.items():
        data = base64.b64encode(FONT_FILES[is_bold].read_bytes()).decode()
        source = f"url(data:font/ttf;base64,{data}) format('truetype')"
        faces.append(f"@font-face{{font-family:{name};src:{source}}}")
    return "".join(faces)
