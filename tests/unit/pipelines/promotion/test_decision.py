"""What is said and kept of a decision, and the report that shows it."""

import dataclasses
import datetime as dt
import json
import math
import re
from html.parser import HTMLParser

import pytest

from forecaster.config import PromotionConfig
from pipelines.backtest.result import BacktestResult
from pipelines.promotion.decision import Decision
from pipelines.promotion.report import html_report, markdown_report
from tests.unit.pipelines.results import make_result

NOW = dt.datetime(2024, 2, 3, 4, 5, 6, tzinfo=dt.UTC)
PNG = b"\x89PNG"


def decide(result: BacktestResult, **rule: float) -> Decision:
    return Decision.of(result, PromotionConfig(**({"margin": 0.0} | rule)), NOW)  # type: ignore[arg-type]


def test_the_line_says_who_is_the_champion_and_why() -> None:
    good, bad = make_result(), make_result(mase=0.95)
    reason = "MASE 0.8000, the champion's 0.9000, the seasonal naive's 1.0000; 80 % intervals hold 80.0% of the values"
    assert decide(good).line() == f"forecaster version 4 is the champion in place of version 3: {reason}"
    refused = "it does not beat the champion (MASE 0.9500; it has to be below 0.9000, the champion's)"
    assert decide(bad).line() == f"forecaster version 4 is not the champion (version 3 stays): {refused}"
    tried = dataclasses.replace(decide(good), dry_run=True).line()
    assert tried.startswith("dry run, nothing was changed: forecaster version 4 would become the champion in place of")
    tried = dataclasses.replace(decide(bad), dry_run=True).line()
    assert tried.startswith("dry run, nothing was changed: forecaster version 4 would not become the champion (version")
    first = decide(make_result(champion=None)).line()
    assert first.startswith("forecaster version 4 is the champion: MASE 0.8000, the seasonal naive's 1.0000;")
    assert decide(make_result(mase=1.0, champion=None)).line().startswith(
        "forecaster version 4 is not the champion (there is none): it does not beat the seasonal naive"
    )  # fmt: skip


@pytest.mark.parametrize(
    "result",
    [
        make_result(),
        make_result(champion=None),
        make_result(mase=math.nan, coverage=math.nan),
        make_result(champion=math.nan),
    ],
    ids=["both", "first", "broken", "broken champion"],
)
def test_a_decision_and_a_result_come_back_from_json_as_they_were(result: BacktestResult) -> None:
    def strict(name: str) -> float:
        raise AssertionError(f"{name} is not JSON")

    text = result.to_json()
    json.loads(text, parse_constant=strict)
    assert BacktestResult.from_json(text).to_json() == text
    assert str(BacktestResult.from_json(text)) == str(result)  # in which NaN equals NaN
    decision = decide(result)
    text = decision.to_json()
    json.loads(text, parse_constant=strict)
    assert str(Decision.from_json(text)) == str(decision)
    assert (
        Decision.of(BacktestResult.from_json(result.to_json()), PromotionConfig(margin=0.0), NOW).line()
        == decision.line()
    )


def test_the_json_has_the_rule_the_numbers_the_versions_and_the_data() -> None:
    plain = json.loads(decide(make_result(), margin=0.05).to_json())
    assert plain["outcome"] == "promoted"
    assert (plain["version"], plain["champion"], plain["data"], plain["run_id"]) == ("4", "3", "feed", "0123abc")
    assert plain["time"] == "2024-02-03T04:05:06Z"
    assert plain["rule"]["margin"] == 0.05
    assert plain["measured"] == {
        "mase": 0.8, "naive_mase": 1.0, "coverage": 0.8, "origins": 300, "champion_mase": 0.9, "nominal": 0.8
    }  # fmt: skip
    assert [one["passed"] for one in plain["clauses"]] == [True] * 5


def test_metrics_are_what_was_judged() -> None:
    assert decide(make_result()).metrics() == {
        "challenger_mase": 0.8,
        "champion_mase": 0.9,
        "seasonal_naive_mase": 1.0,
        "challenger_coverage_80": 0.8,
        "promoted": 1.0,
    }
    assert "champion_mase" not in decide(make_result(champion=None)).metrics()


class Page(HTMLParser):
    """What a page refers to, and whether its elements are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.links, self.words = list[str](), list[str](), list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_report_is_one_page_with_table_rule_verdict_and_figures() -> None:
    result = dataclasses.replace(make_result(mase=0.95, coverage=0.5), model="a <b> & c", notes=("x < y",))
    text = html_report(decide(result), result, {"Error by horizon": PNG})
    page = Page(text)
    assert page.open == []
    assert page.links == ["data:image/png;base64,iVBORw=="]
    assert not re.search(r"https?://|url\(|@import|<script", text)
    words = " ".join(page.words)
    for shown in ("a <b> & c version 4", "refused", "X < y.", "0.9500", "50.0%", "FAIL".lower(), "feed", "0123abc"):
        assert shown in words
    assert words.count("✗ fail") == 2
    assert words.count("✓ pass") == 3


def test_the_markdown_report_has_the_same_tables() -> None:
    result = make_result()
    text = markdown_report(decide(result), result)
    assert text.startswith("# forecaster version 4: promoted\n")
    assert "| challenger, version 4 | 0.8000 | 8.00 % | 0.2667 | 80.0% | 0.8000 | 0.8000 | 0.8000 |" in text
    assert "| seasonal naive | 1.0000 | 10.00 % | - | - | 1.0000 | 1.0000 | 1.0000 |" in text
    assert "| beats the champion | MASE 0.8000; it has to be below 0.9000, the champion's | pass |" in text
    widths = {line.count("|") for line in text.splitlines() if "MASE, fold" in line or line.startswith("| challenger,")}
    assert len(widths) == 1


def test_the_table_for_people_lines_up() -> None:
    lines = make_result().table().splitlines()
    assert lines[0] == (
        "backtest: 300 forecasts of 7 series, 2 steps of 1h ahead, from 2024-01-01T00:00:00Z to 2024-01-02T02:00:00Z"
    )
    assert {len(line) for line in lines[1:5]} == {len(lines[1])}
    assert [line.split("  ")[0] for line in lines[2:5]] == [
        "challenger, version 4",
        "champion, version 3",
        "seasonal naive",
    ]
    assert lines[5].startswith("the champion has learnt from the first 3")
    assert lines[6].startswith("for information: ")
