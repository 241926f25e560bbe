"""Routers, clouds and proxies: their limits and bills, rows they forbid, how they send bodies."""

from __future__ import annotations

import gzip
import json
import zlib

from .kit import Answer, Asked, bad, behaviour, good, raw


def _once(asked: Asked, answer: Answer) -> Answer:
    return answer if asked.number == 1 else good(asked)


@behaviour("Fireworks", fails=True, scored=0, requests=2, says="no credit left")
def fireworks_suspended(asked: Asked) -> Answer:
    return bad(412, "Account x is suspended, possibly due to reaching the monthly spending limit")


@behaviour("Perplexity", fails=True, scored=0, requests=2, says="no credit left")
def quota_with_status_401(asked: Asked) -> Answer:
    return bad(401, "You exceeded your current quota", "insufficient_quota", "insufficient_quota")


@behaviour("xAI", fails=True, scored=0, requests=2, says="no credit left")
def xai_credits(asked: Asked) -> Answer:
    said = "Your team has used all available credits or reached its monthly spending limit."
    code = "The caller does not have permission to execute the specified operation"
    return 403, {"code": code, "error": said}, {}


@behaviour("SiliconFlow", fails=True, scored=0, requests=2, says="no credit left")
def siliconflow_balance(asked: Asked) -> Answer:
    return 403, {"code": 30001, "message": "Sorry, your account balance is insufficient"}, {}


@behaviour("LiteLLM", fails=True, scored=0, requests=2, says="no credit left")
def litellm_budget(asked: Asked) -> Answer:
    said = "Budget has been exceeded! Current cost: 10.2, Max budget: 10.0"
    return bad(400, said, "400", "budget_exceeded")


@behaviour("OpenRouter", fails=True, scored=0, requests=2, says="no credit left")
def openrouter_key_limit(asked: Asked) -> Answer:
    return bad(403, "Key limit exceeded (total limit). Manage it at https://openrouter.ai", 403)


@behaviour("Volcengine", fails=True, scored=0, requests=2, says="no credit left")
def volcengine_overdue(asked: Asked) -> Answer:
    said = "The request failed because your account has an overdue balance."
    return bad(403, said, "AccountOverdueError", "Forbidden")


@behaviour("Google: a limit with status 403", requests=8)
def limit_with_status_403(asked: Asked) -> Answer:
    reasons = [{"reason": "rateLimitExceeded", "domain": "usageLimits"}]
    error = {"code": 403, "message": "Rate Limit Exceeded", "errors": reasons}
    return _once(asked, (403, {"error": error}, {}))


@behaviour("Azure API Management", fails=True, scored=0, requests=3, says="2.2 hours", patience=4)
def call_volume_quota(asked: Asked) -> Answer:
    said = "Out of call volume quota. Quota will be replenished in 02:12:05."
    return 403, {"statusCode": 403, "message": said}, {}


@behaviour("AWS", requests=8)
def throttling_exception(asked: Asked) -> Answer:
    body = {"__type": "ThrottlingException", "message": "Too many requests, please wait"}
    return _once(asked, (400, body, {}))


@behaviour("any: Retry-After of 0, always", fails=True, scored=0, requests=80, patience=2)
def retry_after_of_zero(asked: Asked) -> Answer:
    return bad(429, "slow down", headers={"Retry-After": "0"})


@behaviour("Envoy, Kong: the draft of the IETF", requests=8)
def ratelimit_reset(asked: Asked) -> Answer:
    headers = {"RateLimit-Remaining": "0", "RateLimit-Reset": "1"}
    return _once(asked, (429, {"message": "API rate limit exceeded"}, headers))


@behaviour("any: closed for maintenance", fails=True, scored=0, requests=2, says="60 minutes")
def maintenance(asked: Asked) -> Answer:
    return raw(503, "down for maintenance", retry_after="3600")


@behaviour("TGI", requests=8)
def failed_dependency(asked: Asked) -> Answer:
    body = {"error": "Request failed during generation: Server error", "error_type": "generation"}
    return _once(asked, (424, body, {}))


@behaviour("Cloudflare: a firewall that dislikes a row", scored=3, requests=8, says="failed")
def one_row_forbidden(asked: Asked) -> Answer:
    page = "<html><head><title>Attention Required! | Cloudflare</title></head></html>"
    return raw(403, page, content_type="text/html") if asked.row == 2 else good(asked)


@behaviour("the same, the first row", scored=3, requests=8, says="failed")
def the_first_row_forbidden(asked: Asked) -> Answer:
    page = "<html><head><title>403 Forbidden</title></head></html>"
    return raw(403, page, content_type="text/html") if asked.row == 0 else good(asked)


@behaviour(
    "any: a key without rights", fails=True, scored=0, rows=24, requests=12, says="does not accept"
)
def everything_forbidden(asked: Asked) -> Answer:
    return bad(403, "You have insufficient permissions for this operation.")


@behaviour("any: one replica of several lacks the model", requests=8)
def a_404_in_between(asked: Asked) -> Answer:
    return _once(asked, bad(404, "The model `x` does not exist.", "model_not_found"))


@behaviour("any: the key runs out in between", fails=True, scored=0, requests=6, says="expired")
def key_expires(asked: Asked) -> Answer:
    return good(asked) if asked.number < 2 else bad(401, "The access token expired")


@behaviour("any: http instead of https", fails=True, scored=0, requests=2, says="https://else.+/v1")
def moved_permanently(asked: Asked) -> Answer:
    return raw(301, "<html>", location="https://elsewhere.example/v1/chat/completions")


@behaviour("a company's sign-in page", fails=True, scored=0, requests=2, says="sso.example/login")
def redirect_to_a_login(asked: Asked) -> Answer:
    return raw(302, "", location="https://sso.example/login?token=planted-secret")


@behaviour("a proxy that wants a password", fails=True, scored=0, requests=2, says="proxy")
def proxy_wants_a_password(asked: Asked) -> Answer:
    return raw(407, "Proxy Authentication Required")


@behaviour("many servers")
def gzipped(asked: Asked) -> Answer:
    return raw(200, gzip.compress(json.dumps(good(asked)[1]).encode()), content_encoding="gzip")


@behaviour("some servers")
def deflated(asked: Asked) -> Answer:
    return raw(200, zlib.compress(json.dumps(good(asked)[1]).encode()), content_encoding="deflate")


@behaviour("proxies that leave a wrong header", fails=True, scored=0, patience=2, requests=30)
def said_to_be_gzipped(asked: Asked) -> Answer:
    return raw(200, json.dumps(good(asked)[1]), content_encoding="gzip")


@behaviour("most servers behind nginx")
def in_chunks(asked: Asked) -> Answer:
    return raw(200, json.dumps(good(asked)[1]), transfer_encoding="chunked")


@behaviour("Windows servers: a byte order mark")
def byte_order_mark(asked: Asked) -> Answer:
    return raw(200, b"\xef\xbb\xbf" + json.dumps(good(asked)[1]).encode())


@behaviour("any: no content", fails=True, scored=0, requests=4, says="gives no answers")
def status_204(asked: Asked) -> Answer:
    return raw(204, "")


@behaviour(
    "queues: the answer is to be fetched", fails=True, scored=0, requests=4, says="no answers"
)
def status_202(asked: Asked) -> Answer:
    return 202, {"id": "x", "status": "queued"}, {}


@behaviour("OpenRouter: comments keep a stream open")
def event_stream_after_comments(asked: Asked) -> Answer:
    return raw(200, ": OPENROUTER PROCESSING\n\n" * 3 + _events(asked), content_type=_STREAM)


@behaviour("any: events with a number")
def event_stream_with_numbers(asked: Asked) -> Answer:
    return raw(200, "id: 1\r\nretry: 10\r\n" + _events(asked), content_type=_STREAM)


@behaviour("an error in a stream", requests=8)
def error_in_a_stream(asked: Asked) -> Answer:
    error = {"error": {"code": 502, "message": "Provider disconnected"}}
    return _once(asked, raw(200, f"data: {json.dumps(error)}\n\n", content_type=_STREAM))


@behaviour("DashScope: QwQ", requests=5, says="stream")
def stream_required(asked: Asked) -> Answer:
    if not asked.body.get("stream"):
        said = "This model only support stream mode, please enable the stream parameter."
        return bad(400, said, "invalid_parameter_error")
    return raw(200, _events(asked), content_type=_STREAM)


@behaviour("the same, without a count", requests=6, says="no stream_options")
def stream_required_without_options(asked: Asked) -> Answer:
    if not asked.body.get("stream"):
        return bad(400, "parameter.enable_thinking must be false for non-streaming calls")
    if "stream_options" in asked.body:
        return bad(400, "Unrecognized request argument supplied: stream_options")
    return raw(200, _events(asked), content_type=_STREAM)


@behaviour("LiteLLM: errors of whoever is behind it", requests=8)
def litellm_timeout(asked: Asked) -> Answer:
    said = "litellm.Timeout: APITimeoutError - Request timed out. Error_str: Request timed out."
    return _once(asked, bad(408, said, "408", "None"))


@behaviour("Mistral: a message that is an object", requests=5, temperature=0.5)
def extra_forbidden(asked: Asked) -> Answer:
    if "seed" not in asked.body:
        return good(asked)
    where = {"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not ..."}
    body = {"object": "error", "message": {"detail": [where]}, "type": "invalid_request_error"}
    return 422, body, {}


@behaviour("a router that answers by another model", says="another")
def another_model(asked: Asked) -> Answer:
    return good(asked, top={"model": "another-7b"})


@behaviour(
    "any: a code in a success", fails=True, scored=0, requests=30, patience=2, says="server busy"
)
def code_and_msg(asked: Asked) -> Answer:
    return raw(200, '{"code": 500, "msg": "server busy", "success": false, "data": null}')


@behaviour("any: errors as a list, with status 200", fails=True, scored=0, requests=4, says="broke")
def list_with_status_200(asked: Asked) -> Answer:
    return raw(200, '[{"error": {"message": "it broke"}}]')


_STREAM = "text/event-stream"


def _events(asked: Asked) -> str:
    def event(choices: list[dict[str, object]], **more: object) -> str:
        return f"data: {json.dumps({'model': 'm', 'choices': choices, **more})}\n\n"

    pieces = "".join(
        event([{"index": 0, "delta": {"content": letter}, "finish_reason": None}])
        for letter in asked.stated
    )
    usage = good(asked)[1]["usage"]
    end = event([{"index": 0, "delta": {}, "finish_reason": "stop"}]) + event([], usage=usage)
    return f"{pieces}{end}data: [DONE]\n\n"
