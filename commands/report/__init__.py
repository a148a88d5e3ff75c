"""The fidelity report as one HTML page: no script, nothing loaded from elsewhere, readable in light and dark.

``write_page`` is the whole face; a `Sample` is an image with what each version kept of it. Equal reports and samples
give equal bytes. ``templates/report.html`` is the page; ``page`` renders and writes it, ``rows`` chooses and orders
what its tables show, ``images`` draws what it embeds, ``samples`` asks the engines.
"""

from allrounder.commands.report.page import page, write_page
from allrounder.commands.report.samples import Kept, Sample, ask_versions

__all__ = ["Kept", "Sample", "ask_versions", "page", "write_page"]
