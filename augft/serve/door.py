"""Who may come in, and how much they may bring: the token, and a body of limited bytes in limited time."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncGenerator

from fastapi import HTTPException
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

BODY_S = 20.0
"""For a body to arrive: a client that sends a byte a second holds a place for no longer."""
_FRAME_BYTES = 64 * 2**10
"""What multipart may add to a picture."""


def digest(token: str) -> bytes:
    """What replicas know of a token: enough to recognise it."""
    return hashlib.sha256(token.encode()).digest()


def check_token(request: Request, expected: bytes | None) -> None:
    """Whether a request carries the token, told in a time that does not depend on how much of it is right.

    Args:
        request: with `Authorization: Bearer TOKEN`.
        expected: digest of the token; None: everybody may come in.

    Raises:
        HTTPException: 401.
    """
    if expected is None:
        return
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(digest(token.strip()), expected):
        raise HTTPException(401, "give the token: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})


async def picture_of(request: Request, max_bytes: int) -> bytes:
    """The picture file that a request brings, as its whole body or as the first file of a form.

    What the client says it is does not matter: its bytes are judged.

    Raises:
        HTTPException: 400 empty, or a broken form; 408 too slow; 413 too large; 422 a form without a file.
    """
    is_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    try:
        body = await asyncio.wait_for(_body(request, max_bytes + _FRAME_BYTES * is_form), BODY_S)
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {BODY_S:.0f} s") from None
    except ClientDisconnect:
        raise HTTPException(400, "the body broke off") from None
    content = await _first_file(request, body) if is_form else body
    if len(content) > max_bytes:
        raise HTTPException(413, _too_large(max_bytes))
    if not content:
        raise HTTPException(400, "there is no picture: send one as the body, or as a file of a form")
    return content


async def _body(request: Request, max_bytes: int) -> bytes:
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise HTTPException(413, _too_large(max_bytes))
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:  # also of a body whose length was not said, or was a lie
            raise HTTPException(413, _too_large(max_bytes))
    return bytes(body)


async def _first_file(request: Request, body: bytes) -> bytes:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form: FormData = await MultiPartParser(
            request.headers, stream(), max_files=1, max_fields=8, max_part_size=_FRAME_BYTES
        ).parse()
    except (MultiPartException, ValueError, KeyError) as error:
        reason = getattr(error, "message", None) or "not multipart/form-data"
        raise HTTPException(400, f"the form cannot be read ({reason})") from None
    try:
        for _, part in form.multi_items():
            if isinstance(part, UploadFile):
                return await part.read()
    finally:
        await form.close()
    raise HTTPException(422, "the form has no file: send the picture as one, as curl -F picture=@photo.jpg does")


def _too_large(max_bytes: int) -> str:
    return f"the body is larger than {max_bytes:,} bytes (--max-bytes)"
