"""All tools, in the order of the page."""

from ecosystem_probes import torch_tools  # noqa: F401, I001 - registers its tools first
from ecosystem_probes import libraries  # noqa: F401
from ecosystem_probes.common import TOOLS as TOOLS
