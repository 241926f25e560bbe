"""Errors inside answers, errors of the address and the key, and rows that are too long."""

from __future__ import annotations

import json
from collections.abc import Callable

from .kit import BEHAVIOURS, Answer, Asked, Behaviour, bad, behaviour, good, raw


@behaviour("OpenRouter, open-webui/computer issue 293", requests=8)
def cause_in_metadata(asked: Asked) -> Answer:
    inner = json.dumps({"error": {"message": "Rate limit. Try again in 0.1s", "code": 429}})
    more = {"metadata": {"raw": inner, "provider_name": "x"}}
    return bad(429, "Provider returned error", 429, **more) if asked.number == 1 else good(asked)


@behaviour("OpenRouter", fails=True, scored=0, requests=8, says="tool choice is wrong")
def cause_of_a_refusal_in_metadata(asked: Asked) -> Answer:
    more = {"metadata": {"raw": '{"detail": "tool choice is wrong"}'}}
    return bad(400, "Provider returned error", 400, **more)


@behaviour("Bifrost issue 5425, OpenRouter", requests=8)
def finish_reason_error(asked: Asked) -> Answer:
    return good(asked, '{"uncer', finish_reason="error") if asked.number == 1 else good(asked)


@behaviour("the same, always", fails=True, scored=0, requests=4, says="ended by `error`")
def finish_reason_error_always(asked: Asked) -> Answer:
    return good(asked, finish_reason="error")


@behaviour("vLLM", requests=8)
def finish_reason_abort(asked: Asked) -> Answer:
    return good(asked, finish_reason="abort") if asked.number == 1 else good(asked)


@behaviour("DeepSeek", requests=8)
def finish_reason_insufficient_system_resource(asked: Asked) -> Answer:
    reason = "insufficient_system_resource" if asked.number == 1 else "stop"
    return good(asked, finish_reason=reason)


@behaviour("OpenRouter: an error in a choice", requests=8)
def error_in_the_choice(asked: Asked) -> Answer:
    error = {"code": 502, "message": "Upstream error"}
    return good(asked, "", finish_reason="error", error=error) if asked.number == 1 else good(asked)


@behaviour("many proxies", fails=True, scored=0, requests=4, says="something went wrong")
def error_with_status_200(asked: Asked) -> Answer:
    return raw(200, '{"error": {"message": "something went wrong"}}')


@behaviour("Ollama", fails=True, scored=0, requests=4, says="model runner has stopped")
def error_text_with_status_200(asked: Asked) -> Answer:
    return raw(200, '{"error": "model runner has stopped"}')


@behaviour("OpenRouter", requests=8)
def passing_error_with_status_200(asked: Asked) -> Answer:
    body = '{"error": {"code": 503, "message": "no capacity"}}'
    return raw(200, body) if asked.number == 1 else good(asked)


@behaviour("MiniMax", fails=True, scored=0, requests=4, says="login fail")
def base_resp(asked: Asked) -> Answer:
    body = '{"choices": null, "base_resp": {"status_code": 1004, "status_msg": "login fail"}}'
    return raw(200, body)


@behaviour("any: a wrong URL", fails=True, scored=0, requests=4, says="web page|base_url")
def a_web_page(asked: Asked) -> Answer:
    page = "<!DOCTYPE html><html><head><title>Welcome</title></head></html>"
    return raw(200, page, content_type="text/html")


@behaviour("nginx: a wrong URL", fails=True, scored=0, requests=2, says="does not serve")
def a_404_page(asked: Asked) -> Answer:
    page = "<html><head><title>404 Not Found</title></head></html>"
    return raw(404, page, content_type="text/html")


@behaviour("FastAPI: a wrong URL", fails=True, scored=0, requests=2, says="Not Found")
def a_404_detail(asked: Asked) -> Answer:
    return raw(404, '{"detail": "Not Found"}')


@behaviour("vLLM", fails=True, scored=0, requests=2, says="does not exist")
def unknown_model(asked: Asked) -> Answer:
    return raw(404, '{"object": "error", "message": "The model `x` does not exist.", "code": 404}')


@behaviour("OpenAI", fails=True, scored=0, requests=2, says="does not accept")
def wrong_key(asked: Asked) -> Answer:
    return bad(401, "Incorrect API key provided", "invalid_api_key")


@behaviour("Gemini", fails=True, scored=0, requests=2, says="does not accept")
def wrong_key_with_status_400(asked: Asked) -> Answer:
    error = {"code": 400, "message": "API key not valid. Please pass a valid API key."}
    return 400, [{"error": {**error, "status": "INVALID_ARGUMENT"}}], {}


@behaviour("any", fails=True, scored=0, requests=2, says="redirects elsewhere")
def redirect(asked: Asked) -> Answer:
    return raw(308, "", location="https://elsewhere.example/v1/chat/completions")


@behaviour("any: cut off on its way", requests=8)
def half_a_body(asked: Asked) -> Answer:
    return (
        raw(200, '{"choices": [{"message": {"content": "{\\"un')
        if asked.number == 1
        else good(asked)
    )


@behaviour("any", requests=8)
def no_choices(asked: Asked) -> Answer:
    return raw(200, '{"choices": []}') if asked.number == 1 else good(asked)


@behaviour("Gemini", requests=8)
def empty_without_a_reason(asked: Asked) -> Answer:
    return good(asked, "", finish_reason=None) if asked.number == 1 else good(asked)


@behaviour("proxies that leave it out")
def no_finish_reason(asked: Asked) -> Answer:
    return good(asked, finish_reason=None)


@behaviour("any", scored=0, fails=True, requests=4, says="gives no answers")
def an_empty_body(asked: Asked) -> Answer:
    return raw(200, "")


@behaviour("OpenAI", scored=3, requests=8, says="refused")
def content_filter(asked: Asked) -> Answer:
    return good(asked, None, finish_reason="content_filter") if asked.row == 2 else good(asked)


@behaviour("Azure", scored=3, requests=8, says="refused")
def content_filter_with_status_400(asked: Asked) -> Answer:
    said = "The response was filtered due to the prompt triggering content management policy."
    return bad(400, said, "content_filter") if asked.row == 2 else good(asked)


@behaviour("Gemini", scored=3, requests=8, says="refused")
def gemini_recitation(asked: Asked) -> Answer:
    reason = "content_filter: RECITATION" if asked.row == 2 else "stop"
    return good(asked, finish_reason=reason)


@behaviour("OpenAI", scored=3, requests=8, says="refused")
def refusal_field(asked: Asked) -> Answer:
    message = {"content": None, "refusal": "I cannot help."} if asked.row == 2 else {}
    return good(asked, message=message)


@behaviour("DashScope", scored=3, requests=8, says="refused")
def data_inspection(asked: Asked) -> Answer:
    said = "Input data may contain inappropriate content."
    return bad(400, said, "data_inspection_failed") if asked.row == 2 else good(asked)


_TOO_LONG = {
    "openai": (400, "This model's maximum context length is 8192", "context_length_exceeded"),
    "tgi": (422, "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4001", None),
    "gemini": (400, "The input token count (20) exceeds the maximum number of tokens", None),
    "dashscope": (400, "Range of input length should be [1, 30720]", "InvalidParameter"),
    "anthropic": (400, "prompt is too long: 210000 tokens > 200000 maximum", None),
    "anthropic_sum": (400, "input length and `max_tokens` exceed context limit: 9 + 8 > 10", None),
    "llama_cpp": (400, "the request exceeds the available context size.", None),
    "mistral": (400, "Prompt contains 40000 tokens, too large for model with 32768 maximum", None),
    "cohere": (400, "too many tokens: total number of tokens cannot exceed 4081", None),
    "bedrock": (400, "Input is too long for requested model.", "ValidationException"),
    "sglang": (400, "The input (40 tokens) is longer than the model's context length (32).", None),
    "groq": (400, "Please reduce the length of the messages or completion.", None),
    "github": (413, "Request body too large for gpt-4o model. Max size: 8000 tokens.", None),
    "vllm_prompt": (400, "The prompt (total length 5000) is too long to fit into the model", None),
    "xai": (400, "This model's maximum prompt length is 131072 but the request contains 9", None),
}  # fmt: skip


def _too_long(status: int, said: str, code: str | None) -> Callable[[Asked], Answer]:
    return lambda asked: bad(status, said, code) if asked.row == 2 else good(asked)


for _name, _error in _TOO_LONG.items():
    BEHAVIOURS[f"too_long_{_name}"] = Behaviour(
        _too_long(*_error), f"{_name}", scored=3, requests=8, says="too long"
    )
