"""The fidelity card as one HTML page: no script, nothing loaded from elsewhere, readable in light and dark.

``write_page`` is the whole face; a `Sample` is a picture with what each version kept of it. Equal cards and samples
give equal bytes. Modules: ``page`` puts the sections together and writes the file, ``summary``, ``tables``, ``heat``,
``pictures`` and ``notes`` are sections, ``plots`` draws curves and ``svg`` brings them into the page, ``rows`` chooses
and orders rows of the card, ``words`` writes figures, ``markup`` escapes, ``style`` is the style sheet.
"""

from allrounder.commands.page.page import page, write_page
from allrounder.commands.page.samples import Kept, Sample

__all__ = ["Kept", "Sample", "page", "write_page"]
