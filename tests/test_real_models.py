"""A real model against the published arrays, where a hub can be reached: `make test-hub`."""

import os

import numpy as np
import pytest

from headwise.measuring.agreement import agreement
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.measure import measure
from headwise.measuring.official import find_official, read_official
from headwise.model.pipelines import load_pipeline

HRV = os.environ.get("HEADWISE_HRV") or None
PICTURES = int(os.environ.get("HEADWISE_HUB_PICTURES", "100"))
asked = pytest.mark.skipif(
    HRV is None, reason="HEADWISE_HRV names no clone of the published arrays; `make test-hub HRV=…`"
)


@asked
@pytest.mark.timeout(0)
def test_sd14_measured_here_agrees_with_the_published_arrays(tmp_path):
    published = read_official(find_official(HRV)["sd_v1_4"], "sd_v1_4")
    pipe = load_pipeline("CompVis/stable-diffusion-v1-4")
    measured = measure(pipe, ConceptSet.load("paper34"), pictures=PICTURES, out=tmp_path, batch_size=4)
    found = agreement(measured, published)
    assert len(found) == 34
    reached = np.median([one.correlation for one in found.values()])
    ceiling = np.median([one.ceiling for one in found.values()])
    assert reached > 0.9 * ceiling
