"""All tools, in the order of the page."""

# ruff: noqa: F401, I001 - a file registers its tools when it is imported
from ecosystem_probes import torch_tools
from ecosystem_probes import summaries
from ecosystem_probes import training
from ecosystem_probes import adapters
from ecosystem_probes import wrappers
from ecosystem_probes import files
from ecosystem_probes.common import TOOLS as TOOLS
