"""What ends a run, because every further request would end the same: for people."""

from __future__ import annotations

from axolotl_ual.errors import BackendError

from .address import Server
from .replies import NO_API
from .verdicts import Verdict


def unreachable(server: Server, verdict: Verdict) -> BackendError:
    """No connection could be made."""
    return BackendError(
        f"cannot reach the judge at {server.url}: {verdict.message}",
        f"is the server running, and is {server.section}.base_url right? A local one looks like "
        "http://localhost:8000/v1",
    )


def takes_no_images(server: Server, model: str, verdict: Verdict) -> BackendError:
    """No request with images was accepted."""
    return BackendError(
        f"{server.url} takes no images for {model}: {verdict.message}",
        f"set ual.annotate.images to `omit` to judge the text alone, or name a model that sees "
        f"images in {server.section}.model; where that one does, mend the images that it speaks of",
    )


def refuses_all(server: Server, model: str, verdict: Verdict) -> BackendError:
    """Nothing was accepted."""
    return BackendError(
        f"{server.url} refuses every request for {model}: {verdict.message}",
        f"look at the settings under {server.section}; nothing was answered",
    )


def no_answers(server: Server, model: str, verdict: Verdict) -> BackendError:
    """What comes back is no chat completion."""
    fix = f"look at what this server sends; is {server.section}.base_url right?"
    if verdict.message.startswith(NO_API):
        fix = (
            f"{server.section}.base_url should be the root of an OpenAI-compatible API, most "
            "often ending in /v1"
        )
    return BackendError(f"{server.url} gives no answers for {model}: {verdict.message}", fix)


def fatal(server: Server, model: str, verdict: Verdict) -> BackendError:
    """The key, the account, the model or the address is wrong."""
    if verdict.unpaid:
        return BackendError(
            f"the account at {server.url} has no credit left ({verdict.message})",
            "add credit and run the same command again: what was answered is in the cache",
        )
    if verdict.status == 407:
        return BackendError(
            f"the proxy on the way to {server.url} wants a name and a password ({verdict.message})",
            "export HTTPS_PROXY=http://NAME:PASSWORD@HOST:PORT, or name the host in NO_PROXY",
        )
    if verdict.status in (400, 401, 403):
        held = "the key in" if server.key else "no key: there is nothing in"
        return BackendError(
            f"{server.url} does not accept {held} {server.key_env} ({verdict.message})",
            f"export {server.key_env}=... with a key for this server, or set "
            f"{server.section}.api_key_env to the variable that holds it",
        )
    if verdict.status in (404, 405):
        return BackendError(
            f"{server.url} does not serve {model} ({verdict.message})",
            f"look at {server.section}.model and base_url, which ends in /v1 on most servers",
        )
    return BackendError(
        f"{server.url} redirects elsewhere ({verdict.message})",
        f"set {server.section}.base_url to where it redirects to; a key is not sent along",
    )
