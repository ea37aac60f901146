"""The page: `headwise serve`, for a browser on the same machine.

    safety.py      who may ask: hosts, origins, a token, sessions, sizes
    jobs.py        one thing at a time, with progress and cancel; long runs step aside for short ones
    workbench.py   the model, its relevance and its judge, loaded behind the page's back
    asks.py        what can be asked for, checked
    drawing.py     pictures: explore, generate, edit, compose
    running.py     runs that go to a folder: measure, weaken
    folders.py     the folder of runs: what is there, whose it is, and nothing outside it
    recipes.py     what was asked, as Python and as a command line
    desk.py        all of these together, without a word of HTTP
    app.py         the routes
    page/          what the browser gets: one HTML file, one style sheet, modules without a build step

Everything the browser asks for is answered from here; no other host is ever asked.
"""
