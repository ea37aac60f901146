r"""Mathematics of the pages as MathML, made while the site is built: no script, no font, no other host.

A Markdown extension, named in mkdocs.yml: $x$ within a line, and a block of its own between $$ and $$.
"""

from typing import Any
from xml.etree.ElementTree import Element, SubElement

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.blockprocessors import BlockProcessor
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor

__all__ = ["Mathematics", "makeExtension"]

# After code, whose priority is 190, and before backslashes are taken for escapes, at 180.
PRIORITY = 185
LINE = r"(?<!\\)\$(?=\S)([^$]+?)(?<=\S)\$"


class _Line(InlineProcessor):
    def handleMatch(self, m: Any, data: str) -> tuple[str, int, int]:
        return self.md.htmlStash.store(convert(m[1])), m.start(0), m.end(0)


class _Block(BlockProcessor):
    def test(self, parent: Element, block: str) -> bool:
        return block.startswith("$$") and block.rstrip().endswith("$$")

    def run(self, parent: Element, blocks: list[str]) -> None:
        formula = blocks.pop(0).strip().removeprefix("$$").removesuffix("$$")
        paragraph = SubElement(parent, "p")
        paragraph.text = self.parser.md.htmlStash.store(convert(formula, display="block"))


class Mathematics(Extension):
    """Reads both forms."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802, the name is Markdown's
        """Take part in reading a page."""
        md.inlinePatterns.register(_Line(LINE, md), "mathematics", PRIORITY)
        md.parser.blockprocessors.register(_Block(md.parser), "mathematics", PRIORITY)


def makeExtension(**options: Any) -> Mathematics:  # noqa: N802, likewise
    """What Markdown asks a module for."""
    return Mathematics(**options)
