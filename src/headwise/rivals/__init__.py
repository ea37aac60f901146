"""Other ways to edit pictures and to draw several subjects, in the same frame, so that comparisons are fair.

Each is a hook or a loop of its own file, after its paper. They are here to be compared with, and are drawn
from the same latents with the same scheduler as what they are compared with.
"""

from headwise.rivals.composable import compose
from headwise.rivals.free_prompt import FreePrompt
from headwise.rivals.masactrl import MasaCtrl
from headwise.rivals.plug_and_play import PlugAndPlay
from headwise.rivals.sdedit import sdedit

__all__ = ["FreePrompt", "MasaCtrl", "PlugAndPlay", "compose", "sdedit"]
