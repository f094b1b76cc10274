"""What the reference evaluators are given."""

import numpy as np
import pytest

from regionspot_cache.evaluation import evaluate
from tests.evaluation.synthetic import Problem, annotations, detections
from tests.evaluation.test_evaluate import assert_same


@pytest.mark.parametrize("federated", [True, False])
def test_annotations_of_unlisted_categories_count_nowhere(federated: bool) -> None:
    """Not even when the file does not list their image either."""
    rng = np.random.default_rng(0)
    problem = Problem(images=3, federated=federated)
    truth = annotations(rng, problem)
    found = detections(rng, problem, truth)
    expected = evaluate(found, truth)
    stray = {**truth["annotations"][0], "id": 10**6, "category_id": 10**6, "image_id": 10**6}
    truth["annotations"] = [stray, *truth["annotations"]]
    assert_same(evaluate(found, truth), expected)
    assert_same(evaluate(found, truth, fast=False), expected)
