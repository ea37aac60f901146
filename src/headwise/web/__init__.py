"""The page: `headwise serve`, for a browser on the same machine.

    security       which requests are answered: hosts, origins, a token, sessions, sizes
    jobs           one job at a time, with progress and cancel; runs yield to short jobs
    session        the model, its relevance and its CLIP scorer, loaded in the background
    requests       what can be requested, checked
    expressions    calls of the library as data, executed or printed
    calls          the calls that each request comes to
    explore_jobs   an image with the attention of each head to each word
    picture_jobs   images: generate, edit, compose
    run_jobs       runs that go to a folder: measure, weaken
    weakenings     what weakenings have given, without the model
    run_store      the folder of runs: its contents and owners, and nothing outside of it
    snippets       a request as Python and as a command line
    service        all of these together, without HTTP
    app            the routes
    page/          what the browser gets: one HTML file, one style sheet, modules without a build step

Everything that the browser asks for is answered from here; it loads nothing from another host.
"""
