"""Studies with people: a blind rating page over a folder of images, its answers, and their evaluation.

    description   a study: its questions and its images
    reading       study.toml, which describes it
    making        study.toml written from the images of a benchmark
    order         which trials each participant is asked, in which order
    answers       the file of answers, which loses no answer that was acknowledged
    blind         what a participant may know of a trial
    server        the page
    results       rates, agreement, tests, and the answers as a table
    kappa, signs  Fleiss' kappa; the exact sign test

Only the server needs the extra `web`.
"""
