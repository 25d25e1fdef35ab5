"""Draw every single-codepoint emoji of the font as a 64 px picture with its Unicode name.

python -m assets.make.render [--font NotoColorEmoji.ttf]
"""

import argparse
import json
import unicodedata
from pathlib import Path

import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

from assets.make.configs import IMAGE_SIZE
from assets.make.dataset import DATA, SHEET_COLUMNS

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
STRIKE = 109  # the only size at which this font has colour bitmaps
CANVAS = 136  # px; the bitmaps are at most 136 wide and 128 high


def named_codepoints(font: Path) -> dict[int, str]:
    """Codepoint -> lower-case Unicode name, for every glyph that has a colour bitmap."""
    table = TTFont(font)
    bitmaps = set(table["CBDT"].strikeData[0])
    names = {}
    for codepoint, glyph in sorted(table.getBestCmap().items()):
        name = unicodedata.name(chr(codepoint), "").lower()
        if glyph in bitmaps and name and not is_part(codepoint):
            names[codepoint] = name
    return names


def is_part(codepoint: int) -> bool:
    """Text characters, flag letters and skin tones: drawn in colour, yet no pictures by themselves."""
    return codepoint < 0x100 or 0x1F1E6 <= codepoint <= 0x1F1FF or 0x1F3FB <= codepoint <= 0x1F3FF


def draw(codepoint: int, face: ImageFont.FreeTypeFont) -> np.ndarray:
    """One glyph, centred on white: uint8 [64, 64, 3]."""
    canvas = Image.new("RGBA", (CANVAS, CANVAS), (255, 255, 255, 255))
    middle = (CANVAS / 2, CANVAS / 2)
    ImageDraw.Draw(canvas).text(middle, chr(codepoint), font=face, embedded_color=True, anchor="mm")
    small = canvas.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)
    return np.asarray(small)


def tile(pictures: np.ndarray) -> Image.Image:
    """Pictures [N, 64, 64, 3] as one sheet, row by row, the rest white."""
    rows = -(-len(pictures) // SHEET_COLUMNS)
    sheet = np.full((rows * IMAGE_SIZE, SHEET_COLUMNS * IMAGE_SIZE, 3), 255, np.uint8)
    for index, picture in enumerate(pictures):
        top, left = (IMAGE_SIZE * n for n in divmod(index, SHEET_COLUMNS))
        sheet[top : top + IMAGE_SIZE, left : left + IMAGE_SIZE] = picture
    return Image.fromarray(sheet)


def main() -> None:
    """Write `glyphs.png` and `captions.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--font", type=Path, default=FONT)
    font = parser.parse_args().font
    face = ImageFont.truetype(str(font), STRIKE)
    names = named_codepoints(font)
    pictures = {code: draw(code, face) for code in names}
    # Joiners and skin-tone marks have names but nothing to show.
    shown = [code for code in names if np.ptp(pictures[code]) > 0]
    DATA.mkdir(parents=True, exist_ok=True)
    tile(np.stack([pictures[code] for code in shown])).save(DATA / "glyphs.png", optimize=True)
    rows = [{"codepoint": code, "caption": names[code]} for code in shown]
    text = json.dumps({"version": 1, "font": "Noto Color Emoji", "glyphs": rows}, indent=0)
    (DATA / "captions.json").write_text(text + "\n")
    print(f"{len(shown)} glyphs in {DATA}")


if __name__ == "__main__":
    main()
