"""The page decodes masks as Python encodes them; run by Node where it is installed."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cupola.serve import pages
from cupola.structures.masks import decompress_counts, encode_rle

MODULE = Path(pages.__file__).parent / "detection" / "masks.js"
SCRIPT = """
const painted = [];
const pen = { fillRect: (...rectangle) => painted.push(rectangle) };
globalThis.document = { createElement: () => ({ getContext: () => pen }) };
const { maskLayer, runLengths } = await import(process.argv[1]);
const rle = JSON.parse(process.argv[2]);
maskLayer(rle, "#fff");
console.log(JSON.stringify({ runs: runLengths(rle.counts), painted }));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
def test_runs_and_pixels_are_those_of_the_encoding() -> None:
    rng = np.random.default_rng(0)
    for mask in (rng.random((7, 5)) > 0.5, np.ones((3, 4), bool), rng.random((400, 300)) > 0.999):
        rle = encode_rle(mask)
        command = ["node", "--input-type=module", "-e", SCRIPT, MODULE.as_uri(), json.dumps(rle)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        seen = json.loads(done.stdout)
        assert seen["runs"] == decompress_counts(rle["counts"]).tolist()
        drawn = np.zeros_like(mask)
        for x, y, width, height in seen["painted"]:
            drawn[y : y + height, x : x + width] = True
        assert np.array_equal(drawn, mask)
