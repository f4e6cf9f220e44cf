"""Foreign text in Markdown pages: it is shown as it is, and can be neither markup nor a command."""

import html
import re
from typing import Any

LONGEST = 200


def inline(text: Any) -> str:
    """One line of plain text, for a paragraph or a table; control characters are left out, and what is too long."""
    line = "".join(character for character in " ".join(str(text).split()) if character.isprintable())
    return re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", html.escape(line[:LONGEST], quote=False))


def shell(command: str | None) -> str | None:
    """A block with a command line to copy; None where there is none, or it could do more than it shows."""
    if not command or not command.isprintable() or re.search(r"[`;&|<>]|\$\(", command):
        return None
    return f"```sh\n{command}\n```\n"
