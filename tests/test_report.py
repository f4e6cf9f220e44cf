import json

import pytest

from tinyworlds.report import Scores, text_table


@pytest.fixture
def scores() -> Scores:
    scores = Scores()
    scores.put("actions", {"nmi": 0.25, "accuracy": None, "majority": float("nan")}, otherwise="no truth")
    scores.put("speed", {"parameters": 12345, "training_seconds": None}, otherwise="nobody looked")
    return scores


def test_what_could_not_be_had_is_null_with_a_reason(scores):
    assert json.loads(json.dumps(scores.nested(), allow_nan=False)) == {
        "actions": {"nmi": 0.25, "accuracy": None, "majority": None},
        "speed": {"parameters": 12345, "training_seconds": None},
        "reasons": {
            "actions.accuracy": "no truth",
            "actions.majority": "no truth",
            "speed.training_seconds": "nobody looked",
        },
    }


def test_the_table_has_a_line_for_each_metric_and_for_each_reason(scores):
    lines = text_table(scores).splitlines()
    assert len(lines) == 5 + 2
    assert [line.split()[1] for line in lines[:5]] == ["0.25", "–", "–", "12,345", "–"]
    assert lines[5] == "actions.accuracy, actions.majority: no truth"
