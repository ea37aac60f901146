"""Studies with people: a blind rating page for a folder of images, the answers, and their evaluation.

    description   a study: its questions and its images
    reading       reading study.toml, which describes a study
    making        writing study.toml for the images of a benchmark
    order         which trials each participant gets, in which order
    answers       the file of answers, which never loses an acknowledged answer
    blind         what the page reveals of a trial
    server        the page
    results       rates, agreement, tests, and the answers as a table
    kappa, signs  Fleiss' kappa; the exact sign test

Only the server needs the extra `web`.
"""
