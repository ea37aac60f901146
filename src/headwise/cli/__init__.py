"""The command line: parse, call one library function, print what came back.

Tables for people and JSON for programs go to stdout, progress to stderr. Exit codes: 0 done, 2 refused with
one sentence, 130 interrupted (what was counted is kept, and the same command resumes).
"""
