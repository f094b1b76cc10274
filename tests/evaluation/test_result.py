import json

from regionspot_cache.evaluation import EvaluationResult, Protocol

PROTOCOL = Protocol(
    dataset="LVIS v1",
    split="minival",
    metric="LVIS",
    method="RegionSpot BL",
    proposals="dets.json (GLIP dictionary, top 300)",
    templates="clip80+name",
    class_names="raw",
    score_rule="official",
    detections="shared (every box with every class)",
)


def test_every_number_carries_its_protocol() -> None:
    metrics = {"box": {"AP": 0.2345, "APr": -1.0}, "accuracy": {"boxes": 12.0, "top1": 0.5}}
    result = EvaluationResult(protocol=PROTOCOL, metrics=metrics)
    protocol, *lines = str(result).splitlines()
    assert protocol.startswith("RegionSpot BL: LVIS v1 minival, LVIS standard AP, 300 detections an image;")
    for value in vars(PROTOCOL).values():
        assert str(value) in protocol
    assert lines == ["  box:      AP 23.4  APr -", "  accuracy: top1 50.0"]
    stored = json.loads(json.dumps(result.to_json()))
    assert stored["protocol"]["cap"] == 300
    assert stored["metrics"] == metrics
