"""What the answers say, on tables small enough to count by hand; and the commands."""

import csv
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from headwise.intervals import wilson
from headwise.study.kappa import fleiss_kappa
from headwise.study.making import make_study
from headwise.study.order import trials_of
from headwise.study.results import as_csv, results_of
from headwise.study.signs import sign_test
from study_helpers import begun, editing, polysemy, several


def answer(study, answers, decide, careless=()):
    """Everybody answers everything: `decide` gives the code; the careless miss their checks."""
    for number in range(len(decide)):
        person = answers.join(answers.link(), study.consent)
        for n, trial in enumerate(trials_of(study, person.number)):
            code = decide[number](trial)
            if trial.check is not None:
                others = [option for option in trial.options if option != trial.check]
                code = others[0] if number in careless else trial.check
            answers.record(person.number, n, trial, code, 2.0)


def prefers(*methods):
    """A rater who has an order of methods."""
    return lambda trial: min(trial.item.methods, key=methods.index)


OURS = prefers("relevance", "prompt-to-prompt", "sdedit 0.5")
THEIRS = prefers("prompt-to-prompt", "sdedit 0.5", "relevance")


@pytest.fixture
def preferred(tmp_path):
    """Editing, four cases: five raters prefer ours, one theirs; a careless seventh, too."""
    study, answers = begun(editing(tmp_path / "study"))
    answer(study, answers, [OURS] * 5 + [THEIRS] * 2, careless=(6,))
    return tmp_path / "study", study, answers


def rate_of(results, question, code, shown, group=""):
    (found,) = [
        r for r in results.rates
        if (r.question, r.answer, r.group) == (question, code, group) and shown == r.shown
    ]  # fmt: skip
    return found


def comparison_of(results, question, second, unit, group=""):
    (found,) = [
        t for t in results.compared
        if (t.question, t.second, t.unit, t.group) == (question, second, unit, group)
    ]  # fmt: skip
    return found


def test_preferences_counted_by_hand(preferred):
    *_, answers = preferred
    found = results_of(answers)
    pair = ("relevance", "prompt-to-prompt")
    ours = rate_of(found, "fit", "relevance", pair)
    assert (ours.hits, ours.n) == (5 * 4, 6 * 4) and ours.share == wilson(20, 24)
    assert ours.by_case == pytest.approx((5 / 6, 5 / 6, 5 / 6)), "all cases are alike here"
    assert rate_of(found, "fit", "prompt-to-prompt", pair).hits == 4
    assert rate_of(found, "keep", "relevance", pair, "Color").n == 6 * 2


def test_signs_counted_by_hand(preferred):
    *_, answers = preferred
    found = results_of(answers)
    for second in ("prompt-to-prompt", "sdedit 0.5"):
        by_answer = comparison_of(found, "fit", second, "answers")
        assert (by_answer.wins, by_answer.losses, by_answer.ties) == (20, 4, 0)
        assert by_answer.p == sign_test(20, 4) and by_answer.corrected == pytest.approx(2 * by_answer.p)
        by_case = comparison_of(found, "fit", second, "cases")
        assert (by_case.wins, by_case.losses, by_case.p) == (4, 0, 2 / 16)
        by_person = comparison_of(found, "fit", second, "participants")
        assert (by_person.wins, by_person.losses, by_person.p) == (5, 1, 14 / 64)


def test_agreement_counted_by_hand(preferred):
    *_, answers = preferred
    found = {(a.question, a.shown): a for a in results_of(answers).agreed}
    one = found["fit", ("relevance", "prompt-to-prompt")]
    # five for the first and one for the second, in every item: P = 20 / 30, Σp² = 26 / 36
    assert (one.items, one.ratings) == (4, 24)
    assert one.kappa.value == pytest.approx((20 / 30 - 26 / 36) / (1 - 26 / 36))
    assert found["fit", ()].items == 8 and found["fit", ()].kappa.value == pytest.approx(one.kappa.value)


def test_the_careless_are_counted_and_left_out(preferred):
    *_, answers = preferred
    found = results_of(answers)
    assert found.participants == {"agreed": 7, "finished": 7, "left_out": 1, "withdrawn": 0}
    assert found.answers == {"counted": 6 * 16, "left_out": 16, "checks": 14, "missed": 2}


def test_misses_can_be_allowed(tmp_path):
    path = make_study(editing(tmp_path / "study"))
    path.write_text(path.read_text().replace("allowed_misses = 0", "allowed_misses = 2"))
    study, answers = begun(tmp_path / "study")
    answer(study, answers, [OURS, THEIRS], careless=(1,))
    assert results_of(answers).participants["left_out"] == 0
    assert results_of(answers).answers["counted"] == 32


def test_who_withdrew_and_who_stopped_are_counted(preferred):
    _, study, answers = preferred
    answers.withdraw(0)
    person = answers.join(answers.link(), study.consent)
    answers.record(person.number, 0, trials_of(study, person.number)[0], "relevance", 1.0)
    found = results_of(answers)
    assert found.participants == {"agreed": 8, "finished": 6, "left_out": 1, "withdrawn": 1}
    assert found.answers["counted"] == 5 * 16 + 1


def test_senses_counted_by_hand(tmp_path):
    """Adjusted images are read as meant by all three; plain ones by one; the word “rose” by nobody."""
    study, answers = begun(polysemy(tmp_path))

    def sees(plain):
        def decide(trial):
            if trial.item.case.group == "rose":
                return "neither"
            return "meant" if trial.item.methods != ("plain",) else plain

        return decide

    answer(study, answers, [sees("meant"), sees("other"), sees("other")])
    found = results_of(answers)
    plain = rate_of(found, "sense", "meant", ("plain",))
    assert (plain.hits, plain.n) == (2, 9) and plain.by_case.low == 0
    assert rate_of(found, "sense", "other", ("plain",)).hits == 4
    assert rate_of(found, "sense", "meant", ("adjust",), "orange").share == wilson(6, 6)
    assert math.isnan(rate_of(found, "sense", "meant", ("adjust",), "rose").by_case.low), "one case only"
    by_answer = comparison_of(found, "sense", "plain", "answers")
    assert (by_answer.first, by_answer.wins, by_answer.losses, by_answer.ties) == ("adjust", 4, 0, 5)
    by_case = comparison_of(found, "sense", "plain", "cases")
    assert (by_case.wins, by_case.losses, by_case.ties) == (2, 0, 1)
    by_person = comparison_of(found, "sense", "plain", "participants")
    assert (by_person.wins, by_person.losses, by_person.ties) == (2, 0, 1)
    (agreed,) = found.agreed
    counts = np.array([[3, 0, 0]] * 4 + [[1, 2, 0]] * 2 + [[0, 0, 3]] * 3)
    assert agreed.items == 9 and agreed.kappa.value == pytest.approx(fleiss_kappa(counts).value)


def test_one_of_several(tmp_path):
    make_study(several(tmp_path / "study"), together=True)
    study, answers = begun(tmp_path / "study")
    answer(study, answers, [prefers("relevance", "plain", "attend-and-excite")] * 2 + [
        prefers("plain", "relevance", "attend-and-excite")
    ])  # fmt: skip
    found = results_of(answers)
    assert [r.hits for r in found.rates if r.group == ""] == [4, 2, 0]
    tests = [t for t in found.compared if t.unit == "answers" and t.group == ""]
    pairs = {(t.first, t.second): (t.wins, t.losses, t.ties) for t in tests}
    assert pairs == {
        ("relevance", "plain"): (4, 2, 0),
        ("relevance", "attend-and-excite"): (4, 0, 2),
        ("plain", "attend-and-excite"): (2, 0, 4),
    }


def test_the_table_has_every_answer(preferred):
    *_, answers = preferred
    rows = list(csv.DictReader(io.StringIO(as_csv(answers))))
    assert len(rows) == 7 * 18 == len(list(answers))
    assert sum(row["left_out"] == "1" for row in rows) == 18
    assert sum(row["missed"] == "1" for row in rows) == 2
    assert sum(row["check"] != "" for row in rows) == 14
    real = [row for row in rows if row["check"] == "" and row["left_out"] == "0" and row["question"] == "fit"]
    pair = [row for row in real if row["shown"] == "relevance | prompt-to-prompt"]
    assert sum(row["answer"] == "relevance" for row in pair) == 20
    assert {row["group"] for row in rows} == {"Color", "Image Style"}
    lefts = [row["options"].startswith("relevance") for row in real]
    assert abs(sum(lefts) - len(lefts) / 2) <= len(lefts) / 8


def test_no_answer_yet_is_no_fault(tmp_path, run):
    _, answers = begun(editing(tmp_path))
    found = results_of(answers)
    assert found.rates == found.compared == () and all(a.items == 0 for a in found.agreed)
    code, out, _ = run("study", "report", tmp_path)
    assert code == 0 and "0 answers are counted" in out


def test_report_prints_tables_and_json(preferred, run):
    folder, _, _ = preferred
    code, out, _ = run("study", "report", folder)
    assert code == 0
    assert "7 took part, of whom 7 finished; 0 withdrew." in out
    assert "Excluded for failing attention checks: 1, with 16 answers (2 of 14 checks missed)." in out
    assert re.search(
        r"fit +all +relevance : prompt-to-prompt +relevance +0\.833 \(0\.641 to 0\.933\) +24", out
    )
    assert re.search(r"relevance : prompt-to-prompt +cases +4 +0 +0 +0\.12 +0\.25", out)
    assert "Image Style" not in out
    assert "Image Style" in run("study", "report", folder, "--groups")[1]
    _, out, _ = run("study", "report", folder / "answers.sqlite", "--json")
    found = json.loads(out)
    assert found["participants"]["left_out"] == 1
    assert found["rates"][0]["share"] == {
        "value": 20 / 24,
        "low": wilson(20, 24).low,
        "high": wilson(20, 24).high,
    }
    assert {t["unit"] for t in found["compared"]} == {"answers", "cases", "participants"}
    assert found["agreed"][0]["kappa"]["value"] < 0


def test_export_writes_what_as_csv_says(preferred, run, tmp_path):
    folder, _, answers = preferred
    assert run("study", "export", folder)[1] == as_csv(answers)
    assert run("study", "export", folder, "--out", tmp_path / "a.csv")[0] == 0
    assert (tmp_path / "a.csv").read_text() == as_csv(answers)


def test_make_and_invite(tmp_path, run):
    folder = editing(tmp_path / "study")
    code, out, _ = run(
        "study", "make", folder, "--method", "relevance", "--method", "sdedit 0.5", "--trials", 5
    )
    assert code == 0 and out.strip() == str(folder / "study.toml")
    assert "trials = 5" in (folder / "study.toml").read_text()
    code, _, error = run("study", "make", folder)
    assert code == 2 and "already exists" in error
    code, out, _ = run("study", "invite", folder, "--count", 3, "--address", "https://study.example.org/")
    links = out.split()
    assert code == 0 and len(set(links)) == 3
    _, answers = begun(folder)
    assert all(answers.has_link(link.removeprefix("https://study.example.org/s/")) for link in links)


@pytest.mark.parametrize("command", ["report", "export"])
def test_a_missing_file_is_one_sentence(tmp_path, run, command):
    code, _, error = run("study", command, tmp_path)
    assert code == 2 and "cannot be read as answers of a study" in error


def test_the_columns_are_those_of_the_documents(preferred):
    *_, answers = preferred
    page = (Path(__file__).parents[1] / "docs" / "study.md").read_text()
    table = page.split("| column of the CSV |")[1].split("\n\n")[0]
    told = [name for row in re.findall(r"^\| (`.*?) \|", table, re.M) for name in re.findall(r"`(\w+)`", row)]
    assert sorted(told) == sorted(as_csv(answers).splitlines()[0].split(","))
