"""The routes. All but the page and the two probes ask for the token, where there is one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from fastapi import Depends, FastAPI, HTTPException, Query
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from augft.data.picture import BadPictureError, NoPictureError, TooLargeError
from augft.errors import AugftError
from augft.serve.classifier import Classifier, UInt8Array
from augft.serve.counts import Counts
from augft.serve.door import check_token, picture_of
from augft.serve.page import make_page

MOST_COPIES = 24
_DECODERS = 2
"""Pictures decoded at a time in a replica: what bounds the memory that large ones take."""
_READ = ["GET", "HEAD"]
"""Some load balancers probe with HEAD."""
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

Answer = Callable[[UInt8Array], Awaitable[npt.NDArray[np.float32]]]


@dataclass(frozen=True)
class Limits:
    """What a client may bring."""

    max_bytes: int
    max_pixels: int
    token: bytes | None
    """Digest of the token; None: everybody may come in."""


def build_app(classifier: Classifier, answer: Answer, limits: Limits, counts: Counts) -> FastAPI:
    """The web application of a replica.

    Args:
        classifier: decodes and augments.
        answer: a picture, uint8 (S, S, 3) → its probabilities, float32 (C,); where batches are made.
        limits: what a client may bring.
        counts: told of each request.
    """
    threads = ThreadPoolExecutor(_DECODERS, thread_name_prefix="picture")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sending = asyncio.create_task(counts.keep_sending())
        yield
        sending.cancel()
        with suppress(asyncio.CancelledError):
            await sending
        threads.shutdown(wait=False)

    # Without the pages of FastAPI's own, which load scripts from elsewhere.
    app = FastAPI(title="augft", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    page, policy = make_page(classifier.recipe, needs_token=limits.token is not None)

    def admitted(request: Request) -> None:
        check_token(request, limits.token)

    async def decoded(request: Request) -> UInt8Array:
        content = await picture_of(request, limits.max_bytes)
        try:
            pixels: UInt8Array = await _in_thread(threads, classifier.decode, content)
        except BadPictureError as error:
            status = 413 if isinstance(error, TooLargeError) else 415 if isinstance(error, NoPictureError) else 400
            raise HTTPException(status, f"this {error}") from None
        return pixels

    # The token before the body: who may not come in brings nothing.
    with_token = [Depends(admitted)]

    @app.post("/predict", dependencies=with_token)
    async def predict(request: Request, top: Annotated[int, Query(ge=1)] = 5) -> dict[str, Any]:
        probabilities = await answer(await decoded(request))
        order = np.argsort(-probabilities, kind="stable")[:top]
        classes = classifier.recipe.saved.classes
        rows = [{"class": classes[i], "label": int(i), "probability": float(probabilities[i])} for i in order]
        return {"model": classifier.recipe.name, "top": rows}

    @app.post("/augment", dependencies=with_token)
    async def augment(
        request: Request,
        seed: Annotated[int | None, Query(ge=0, le=2**63 - 1)] = None,
        epoch: Annotated[int | None, Query(ge=0)] = None,
        copies: Annotated[int, Query(ge=1, le=MOST_COPIES)] = 8,
        columns: Annotated[int, Query(ge=1, le=MOST_COPIES + 1)] = MOST_COPIES + 1,
    ) -> Response:
        if epoch is not None and epoch >= classifier.recipe.epochs:
            raise HTTPException(422, f"epoch: the run had epochs 0 to {classifier.recipe.epochs - 1}")
        picture = await decoded(request)

        def made() -> bytes:
            return classifier.augmented(picture, seed=seed, epoch=epoch, copies=copies, columns=columns)

        return Response(await _in_thread(threads, made), media_type="image/png")

    @app.get("/metrics", dependencies=with_token)
    async def metrics() -> PlainTextResponse:
        try:
            return PlainTextResponse(await counts.text(), media_type="text/plain; version=0.0.4")
        except Exception as error:
            raise HTTPException(503, "the counts cannot be reached") from error

    @app.api_route("/healthz", methods=_READ)
    async def healthz() -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    @app.api_route("/readyz", methods=_READ)
    async def readyz() -> PlainTextResponse:
        # A replica is asked only after it has loaded and tried the model; before, Ray Serve answers 503 for it.
        return PlainTextResponse("ready\n")

    @app.api_route("/", methods=_READ)
    async def index() -> Response:
        return Response(page, media_type="text/html", headers={"Content-Security-Policy": policy})

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"detail": f"{first['loc'][-1]}: {first['msg']}"}, 422)

    @app.exception_handler(AugftError)
    async def refused(_: Request, error: AugftError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 500)

    known = {"/", "/predict", "/augment", "/metrics", "/healthz", "/readyz"}

    @app.middleware("http")
    async def counted(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        began_at, status = time.perf_counter(), 500
        try:
            response = await call_next(request)
            status = response.status_code
        finally:
            route = request.url.path if request.url.path in known else "other"
            counts.request(route, status, time.perf_counter() - began_at)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    return app


async def _in_thread(threads: ThreadPoolExecutor, action: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(threads, action, *args)
