"""A font that has the characters of a class name: Pillow's own, which is Latin, else one that fontconfig
knows.
"""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterable
from string import digits

from PIL import ImageFont

from aqd_deploy import processes

Font = ImageFont.FreeTypeFont
# No font has it, so what is drawn for it is what is drawn for all that is missing.
_NO_CHARACTER = "\U0010ffff"
_MOST_TRIED = 5


def font_for(name: str, size: int) -> Font | None:
    """A font of `size` pixels that has every character of `name`, and digits; None where there is none."""
    return _font_with("".join(sorted(set(name) | set(digits))), size)


@functools.lru_cache(maxsize=256)
def _font_with(characters: str, size: int) -> Font | None:
    own = ImageFont.load_default(size)
    if isinstance(own, Font) and not _lacks(own, characters):
        return own
    for path in _system_fonts(characters)[:_MOST_TRIED]:
        try:
            found = ImageFont.truetype(path, size)
        except OSError:
            continue
        if not _lacks(found, characters):
            return found
    return None


def undrawable(names: Iterable[str]) -> list[str]:
    """Those of `names` that no font at hand has all characters of."""
    return [name for name in names if font_for(name, 16) is None]


def _lacks(font: Font, characters: str) -> bool:
    nothing = bytes(font.getmask(_NO_CHARACTER))
    return any(bytes(font.getmask(each)) == nothing for each in characters if not each.isspace())


@functools.cache
def _system_fonts(characters: str) -> list[str]:
    """Files of fonts with these characters, upright sans first; none where there is no fontconfig."""
    codes = " ".join(f"{ord(each):x}" for each in characters)
    try:
        done = processes.run(["fc-list", "-f", "%{file}\\n", f":charset={codes}"], timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return sorted(set(done.stdout.splitlines()), key=_taste)


def _taste(path: str) -> tuple[bool, bool, bool, str]:
    name = path.rsplit("/", 1)[-1].lower()
    leans = any(word in name for word in ("italic", "oblique", "bold", "light", "thin", "black"))
    return leans, "sans" not in name, "mono" in name or "condensed" in name, path
