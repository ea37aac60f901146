"""Ask people: a blind rating page over a folder of pictures, its answers, and what they say.

    description   what is asked: the pictures, the questions
    reading       study.toml, which says so
    making        study.toml written from the pictures of a benchmark
    order         what each participant sees, and in which order
    answers       the file of answers, from which nothing that was acknowledged is lost
    blind         what of it the participant may know
    server        the page
    results       rates, agreement, tests, and the answers as a table
    kappa, signs  Fleiss' kappa; the exact sign test

Only the server needs the extra `web`.
"""

from headwise.study.answers import Answers
from headwise.study.description import Case, Item, Question, Study
from headwise.study.kappa import fleiss_kappa
from headwise.study.making import make_study
from headwise.study.order import Trial, trials_of
from headwise.study.reading import parse_study, read_study
from headwise.study.results import Results, as_csv, results_of
from headwise.study.signs import holm, sign_test

__all__ = [
    "Answers",
    "Case",
    "Item",
    "Question",
    "Results",
    "Study",
    "Trial",
    "as_csv",
    "fleiss_kappa",
    "holm",
    "make_study",
    "parse_study",
    "read_study",
    "results_of",
    "sign_test",
    "trials_of",
]
