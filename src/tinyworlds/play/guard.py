"""Who may ask a server that plays on somebody's own machine."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL = ("localhost", "127.0.0.1", "::1")
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Guard:
    """Refuses what pages of other servers ask for, and tells browsers that ours needs nothing from elsewhere.

    WebSockets are not bound to their page's origin by browsers, so the server has to look. With `local`, the name by
    which it is called must be one of this machine: a foreign name could have been made to point here (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, *, local: bool) -> None:
        self.app, self.local = app, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        reason = refusal(headers.get("host"), headers.get("origin"), local=self.local)
        if reason and scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": reason})
        elif reason:
            await PlainTextResponse(reason, 403)(scope, receive, send)
        else:
            await self.app(scope, receive, _with_headers(send))


def refusal(host: str | None, origin: str | None, *, local: bool) -> str:
    """Why nobody is to be answered who calls the server `host`, from a page of `origin`; empty if they are."""
    try:
        name = urlsplit(f"//{host}").hostname
        theirs = None if origin is None else urlsplit(origin).netloc.lower()
    except ValueError:
        return "what is asked makes no sense"
    if local and name not in LOCAL:
        return f"this server is for {' and '.join(LOCAL[:2])} alone; host=0.0.0.0 opens it to others"
    if theirs is not None and theirs != (host or "").lower():
        return "pages of other servers may not ask"
    return ""


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
        await send(message)

    return sending
