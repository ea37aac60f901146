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
