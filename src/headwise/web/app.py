"""The routes: what a browser may ask for, and what it is told.

A route parses, asks the desk, and answers; everything slow is a job. Errors of Headwise are told as they are.
`make_app` is all that a test needs; `serve` adds the socket.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from headwise import __version__
from headwise.errors import HeadwiseError, MissingExtra, PromptsNotAlike
from headwise.web.jobs import Job, TooManyJobs
from headwise.web.run_store import Forbidden, NotFound, OutsideRuns
from headwise.web.service import Desk

try:
    import uvicorn
    from fastapi import Depends, FastAPI, Query, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, Response
    from starlette.concurrency import run_in_threadpool

    from headwise.web import requests as asks
    from headwise.web.security import SECURITY, Guard, Rules
except ModuleNotFoundError as missing:
    raise MissingExtra(
        "The page needs FastAPI and uvicorn, which are not installed: pip install 'headwise[web]'"
    ) from missing

__all__ = ["listen", "make_app", "serve"]

PAGE = Path(__file__).parent / "page"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
PATIENCE = 15.0  # seconds that a question about a job waits for news
STATUS: dict[type[Exception], int] = {
    OutsideRuns: 404, NotFound: 404, Forbidden: 403, TooManyJobs: 429, HeadwiseError: 422,
}  # fmt: skip
# A report may hold its own style and pictures; it runs nothing and loads nothing, whoever wrote it.
REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def _desk(request: Request) -> Desk:
    return request.app.state.desk


def _owner(request: Request) -> str:
    return request.state.owner


def _job(request: Request, id: str) -> Job:
    """A job, for its owner and for nobody else."""
    job = _desk(request).jobs.get(id, _owner(request))
    if job is None:
        raise NotFound("There is no such job. It may have been forgotten; ask again.")
    return job


Here = Annotated[Desk, Depends(_desk)]
Owner = Annotated[str, Depends(_owner)]
Mine = Annotated[Job, Depends(_job)]
ProgressCallback = dict[str, Any]


def make_app(desk: Desk, rules: Rules) -> FastAPI:
    """The application.

    Args:
        desk: What it works with.
        rules: Who may ask.
    """

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        desk.bench.start()
        yield
        await run_in_threadpool(desk.jobs.close)

    # No pages of documentation: they would load scripts from another host.
    app = FastAPI(lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.desk, app.state.rules = desk, rules
    app.add_middleware(Guard, rules=rules, door=(PAGE / "token.html").read_bytes())  # type: ignore[arg-type]
    for kind, status in STATUS.items():
        app.add_exception_handler(kind, _telling(status))
    app.add_exception_handler(RequestValidationError, _telling_what_is_wrong)
    for add in (_add_page, _add_reading, _add_asking, _add_jobs, _add_exploring, _add_pictures, _add_runs):
        add(app)
    return app


def _telling(status: int) -> Callable[[Request, Exception], JSONResponse]:
    return lambda request, error: JSONResponse({"detail": str(error)}, status)


def _telling_what_is_wrong(request: Request, error: Exception) -> JSONResponse:
    """Which field is wrong and why, without what was sent."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query"))
    return JSONResponse({"detail": f"{where or 'The request'}: {first['msg']}."}, 422)


def _png(content: bytes) -> Response:
    return Response(content, media_type="image/png", headers={"cache-control": "private, max-age=86400"})


def _add_page(app: FastAPI) -> None:
    files = {file.name: file for file in PAGE.iterdir() if file.suffix in KINDS}

    @app.get("/")
    def index() -> Response:
        return Response((PAGE / "index.html").read_bytes(), media_type="text/html")

    @app.get("/page/{name}")
    def part(name: str) -> Response:
        if name not in files:
            raise NotFound("There is no such file.")
        content, kind = files[name].read_bytes(), KINDS[files[name].suffix]
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})


def _add_reading(app: FastAPI) -> None:
    @app.get("/api/state")
    def state(desk: Here, owner: Owner) -> ProgressCallback:
        bench = desk.bench
        return {
            "version": __version__,
            "model": bench.model,
            "state": bench.state,
            "error": bench.error,
            "judge": bench.judge_name,
            "measured": bench.file is not None,
            "num_inference_steps": bench.steps,
            "guidance_scale": bench.guidance_scale,
            "upload": app.state.rules.upload,
            "jobs": [job.told() for job in desk.jobs.of(owner)],
        }

    @app.get("/api/relevance")
    def relevance(desk: Here, name: str = "") -> ProgressCallback:
        found = desk.relevance(name)
        return {
            "concepts": list(found.concepts),
            "layers": [{"address": layer.address, "heads": layer.heads} for layer in found.head_map or ()],
            "values": _numbers(found.values),
            "errors": _numbers(found.standard_errors),
            "split_half": _numbers(found.split_half),
            "top": max(2.0, float(np.quantile(found.values, 0.99))),
            "words": found.settings.get("concepts", []),
            "model": found.settings.get("model"),
            "pictures": found.settings.get("pictures"),
        }

    @app.post("/api/words")
    def words(ask: asks.Prompts, desk: Here) -> ProgressCallback:
        """The words of a prompt with their tokens; which differ from a source's, and who lists them."""
        found, problem = desk.bench.words(ask.prompt), ""
        changed = found
        if ask.source is not None:
            try:
                changed = desk.bench.changes(ask.source, ask.prompt)
            except PromptsNotAlike as error:  # nothing went wrong: somebody is still typing
                changed, problem = (), str(error)
        relevance = desk.maybe("")
        lists = [] if relevance is None else relevance.settings.get("concepts", [])
        more = [{"changed": word in changed, "concepts": _listing(lists, word.text)} for word in found]
        told = [word._asdict() | one for word, one in zip(found, more, strict=True)]
        return {"words": told, "problem": problem}

    @app.get("/api/weaken")
    def weaken(desk: Here, name: str = "") -> ProgressCallback:
        found, running = desk.relevance(name), desk.bench.tools.running
        return {"concepts": running.concepts_to_weaken(desk.bench, found), "ks": list(running.ks_of(found))}


def _listing(concepts: list[Any], word: str) -> list[str]:
    """The concepts that a word is a word of."""
    return [name for name, words in concepts if word.casefold() in (one.casefold() for one in words)]


def _numbers(values: np.ndarray) -> Any:
    """For JSON, which has no NaN."""
    return np.where(np.isfinite(values), np.round(values, 4), None).tolist()  # type: ignore[call-overload]


def _add_asking(app: FastAPI) -> None:
    """A route for everything that can be asked for; what comes is a job."""

    @app.post("/api/explore")
    def explore(ask: asks.Explore, desk: Here, owner: Owner) -> ProgressCallback:
        return desk.submit(ask, owner).told()

    @app.post("/api/generate")
    def generate(ask: asks.Generate, desk: Here, owner: Owner) -> ProgressCallback:
        return desk.submit(ask, owner).told()

    @app.post("/api/strip")
    def strip(ask: asks.Strip, desk: Here, owner: Owner) -> ProgressCallback:
        return desk.submit(ask, owner).told()

    @app.post("/api/suggest")
    def suggest(ask: asks.Suggest, desk: Here, owner: Owner) -> ProgressCallback:
        return desk.submit(ask, owner).told()

    @app.post("/api/edit")
    def edit(ask: asks.Edit, desk: Here, owner: Owner) -> ProgressCallback:
        return desk.submit(ask, owner).told()

    @app.post("/api/compose")
    def compose(ask: asks.Compose, desk: Here, owner: Owner) -> ProgressCallback:
        return desk.submit(ask, owner).told()

    @app.post("/api/measure")
    def measure(ask: asks.Measure, desk: Here, owner: Owner) -> ProgressCallback:
        return desk.submit(ask, owner).told()

    @app.post("/api/weaken")
    def weaken(ask: asks.Weaken, desk: Here, owner: Owner) -> ProgressCallback:
        return desk.submit(ask, owner).told()


def _add_jobs(app: FastAPI) -> None:
    @app.get("/api/jobs/{id}")
    async def one(job: Mine, desk: Here, since: int = -1) -> ProgressCallback:
        """A job, as soon as it is not as it was."""
        until = time.monotonic() + PATIENCE
        while job.version <= since and not job.over and time.monotonic() < until:
            await asyncio.sleep(0.03)
        return job.told() | {"before": desk.jobs.before(job)}

    @app.post("/api/jobs/{id}/cancel")
    def cancel(job: Mine, desk: Here) -> ProgressCallback:
        desk.jobs.cancel(job)
        return job.told()

    @app.get("/api/jobs/{id}/pictures/{number}")
    def picture(job: Mine, number: int) -> Response:
        if not 0 <= number < len(job.pictures):
            raise NotFound("There is no such picture.")
        return _png(job.pictures[number])

    @app.get("/api/jobs/{id}/recipe")
    def recipe(job: Mine, desk: Here) -> ProgressCallback:
        return desk.recipe(job.kind, job.asked)

    @app.post("/api/jobs/{id}/keep")
    def keep(job: Mine, name: Annotated[asks.RunName, Query()], desk: Here) -> ProgressCallback:
        desk.keep(job, name)
        return {"run": name}


def _add_exploring(app: FastAPI) -> None:
    @app.get("/api/explore/{id}/head")
    def head(job: Mine, desk: Here, index: int | None = None) -> ProgressCallback:
        return desk.bench.tools.explore.map_of_head(desk.maps(job), index)

    @app.get("/api/explore/{id}/region")
    def region(
        job: Mine, desk: Here, left: float, top: float, right: float, bottom: float, name: str = ""
    ) -> ProgressCallback:
        box = (left, top, right, bottom)
        return desk.bench.tools.explore.region_of(desk.maps(job), desk.maybe(name), box)


def _add_pictures(app: FastAPI) -> None:
    @app.post("/api/pictures")
    async def send(request: Request, desk: Here, owner: Owner) -> ProgressCallback:
        """Take a picture: its bytes alone, up to the limit, and only what can be read as one."""
        content = b"".join([part async for part in request.stream()])
        id, picture = await run_in_threadpool(desk.receive, content, owner)
        return {"id": id, "width": picture.width, "height": picture.height}

    @app.get("/api/pictures/{id}")
    def sent(id: str, desk: Here, owner: Owner) -> Response:
        from headwise.pictures import png_of

        return _png(png_of(desk.picture(id, owner), {}))


def _add_runs(app: FastAPI) -> None:
    @app.get("/api/runs")
    def runs(desk: Here, owner: Owner) -> list[ProgressCallback]:
        return [desk.told(run, owner) for run in desk.folders.all()]

    @app.get("/api/runs/{name}")
    def one(name: str, desk: Here, owner: Owner) -> ProgressCallback:
        run = desk.folders.run(name)
        return desk.told(run, owner) | {"pictures": list(run.pictures), "sure": desk.sure(run)}

    @app.post("/api/runs/{name}/resume")
    def resume(name: str, desk: Here, owner: Owner) -> ProgressCallback:
        return desk.resume(name, owner).told()

    @app.delete("/api/runs/{name}")
    def remove(name: str, desk: Here, owner: Owner) -> ProgressCallback:
        desk.remove(name, owner)
        return {"removed": name}

    @app.get("/api/runs/{name}/recipe")
    def recipe(name: str, desk: Here) -> ProgressCallback:
        return desk.recipe_of(name)

    @app.get("/api/runs/{name}/weakening")
    def weakening(name: str, desk: Here) -> ProgressCallback:
        desk.folders.run(name)
        return desk.bench.tools.running.curves(desk.folders.inside(name))

    @app.get("/api/runs/{name}/pictures/{file}")
    def picture(name: str, file: str, desk: Here) -> Response:
        return _png(desk.folders.picture(name, file).read_bytes())

    @app.get("/api/runs/{name}/report")
    def report(name: str, desk: Here) -> Response:
        headers = SECURITY | {"content-security-policy": REPORT_POLICY}
        return Response(desk.report(name), media_type="text/html", headers=headers)


def listen(host: str, port: int) -> socket.socket:
    """A socket at a host and port.

    Raises:
        HeadwiseError: It cannot be listened at.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:  # who comes before the server runs waits, and is not sent away
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise HeadwiseError(
            f"Nothing can be served at {host}, port {port}: {error}. Give another --port or --host."
        ) from None


def serve(desk: Desk, rules: Rules, listening: socket.socket) -> None:
    """Serve until interrupted."""
    config = uvicorn.Config(
        make_app(desk, rules),
        log_level="warning",
        access_log=False,  # which would hold the token of whoever opens the page by its link
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run(sockets=[listening])
