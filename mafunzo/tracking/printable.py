"""Text that others wrote, as a terminal may show it.

A terminal obeys what it is shown: a step's log, a name or a model's answer could clear the screen, rename the window, or type.
"""

import re

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PICTURES: dict[int, int | str] = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
"""What stands for each control character: ␛ for the escape character."""
_CONTROL: dict[int, int | str] = {**_PICTURES, 0x7F: 0x2421, **dict.fromkeys(range(0x80, 0xA0), "\ufffd")}


def printable(text: str) -> str:
    """Return `text` with pictures in place of control characters, except tabs and line feeds; colours are left out."""
    return _COLOUR.sub("", text).translate(_CONTROL)
