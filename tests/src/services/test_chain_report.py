"""The page of a chain, and its table of what each service made of the model."""

from common.artifacts import Report, Table
from src.services._chain_report import Finished, chain_report, progression_of

SOURCE = Report("evaluation", {"after_training/rank1": 0.5, "after_training/mAP": 0.25})
TARGET = Report(
    "evaluation",
    {
        "after_training/rank1": 0.3, "after_training/mAP": 0.2,
        "after_adaptation/rank1": 0.4, "after_adaptation/mAP": 0.305,
        "after_quantization/rank1": 0.39, "after_quantization/mAP": 0.3,
    },
    tables=(Table("Retrieval", ("model", "rank1"), (("a<b>.keras", "40.0"),)),),
    notes=("A protocol.",),
)  # fmt: skip
CHAIN = [
    Finished("training", "source", None),
    Finished("evaluation", "source", SOURCE),
    Finished("adaptation", "target", Report("adaptation", {})),
    Finished("quantization", "target", Report("quantization", {})),
    Finished("evaluation", "target", TARGET),
    Finished("benchmarking", "target", Report("benchmarking", {"estimate/latency_ms": 0.484})),
]


def test_each_service_that_made_a_model_has_a_row_and_each_test_set_its_columns():
    table = progression_of(CHAIN)
    assert table.columns == (
        "after", "Rank-1 on source, %", "mAP on source, %", "Rank-1 on target, %", "mAP on target, %",
        "latency on the NPU, ms (estimate)",
    )  # fmt: skip
    assert table.rows == (
        ("training", "50.0", "25.0", "30.0", "20.0", None),
        ("adaptation", None, None, "40.0", "30.5", None),
        ("quantization", None, None, "39.0", "30.0", "0.48"),
    )


def test_thermal_queries_have_columns_where_a_test_set_has_both_modalities():
    numbers = {**TARGET.metrics, "after_adaptation/thermal_to_visible_mAP": 0.125}
    table = progression_of([*CHAIN[:-2], Finished("evaluation", "target", Report("evaluation", numbers))])
    assert table.columns[-2:] == ("mAP on target, %", "thermal to visible mAP on target, %")
    assert [row[-1] for row in table.rows] == [None, "12.5", None]


def test_a_measured_latency_comes_before_an_estimated_one():
    measured = Report("benchmarking", {"estimate/latency_ms": 0.484, "device/latency_ms": 0.51})
    table = progression_of([*CHAIN[:-1], Finished("benchmarking", "target", measured)])
    assert table.columns[-1] == "latency on the NPU, ms (measured)"
    assert table.rows[-1][-1] == "0.51"


def test_the_last_evaluation_of_a_test_set_counts():
    again = Report("evaluation", {"after_quantization/rank1": 0.1, "after_quantization/mAP": 0.1})
    table = progression_of([*CHAIN, Finished("evaluation", "target", again)])
    assert table.rows[-1][3:5] == ("10.0", "10.0")


def test_a_chain_without_an_evaluation_has_no_progression(tmp_path):
    finished = [CHAIN[0], CHAIN[-1]]
    assert progression_of(finished) is None
    assert "Progression" not in chain_report(tmp_path / "report.html", "title", finished).read_text()


def test_the_page_holds_the_tables_of_all_services(tmp_path):
    page = chain_report(tmp_path / "report.html", "project: chain_teaqeb", CHAIN).read_text()
    assert page.index("Progression") < page.index("evaluation on target: Retrieval")
    assert "evaluation on target: A protocol." in page
    assert "a&lt;b&gt;.keras" in page
