"""Parameters that servers refuse, and where they want the key."""

from __future__ import annotations

from .kit import Answer, Asked, bad, behaviour, good, raw


def _format(asked: Asked) -> str:
    return str(asked.body.get("response_format", {}).get("type"))


@behaviour("Anthropic, OpenAI: no bounds in a schema", requests=5)
def schema_without_bounds(asked: Asked) -> Answer:
    if '"minimum"' in str(asked.body.get("response_format")).replace("'", '"'):
        said = "For 'integer' type, properties maximum, minimum are not supported"
        return bad(400, said)
    return good(asked) if _format(asked) == "json_schema" else bad(400, "a schema, please")


@behaviour("DeepSeek, Moonshot", requests=6)
def json_object_only(asked: Asked) -> Answer:
    if _format(asked) == "json_schema":
        return bad(400, "This response_format type is unavailable now")
    return good(asked) if _format(asked) == "json_object" else bad(400, "json_object, please")


@behaviour("small servers", requests=7)
def no_response_format(asked: Asked) -> Answer:
    if "response_format" in asked.body:
        return bad(400, "Unrecognized request argument supplied: response_format")
    return good(asked)


@behaviour("FastAPI servers", requests=7)
def no_response_format_as_pydantic_says(asked: Asked) -> Answer:
    if "response_format" not in asked.body:
        return good(asked)
    detail = [{"loc": ["body", "response_format"], "msg": "Extra inputs are not permitted"}]
    return 422, {"detail": detail}, {}


@behaviour("llama.cpp", requests=7)
def grammar_that_fails(asked: Asked) -> Answer:
    if _format(asked) == "json_schema":
        return bad(500, "failed to parse grammar", kind="server_error")
    return good(asked)


@behaviour("OpenRouter", requests=8)
def no_endpoint_for_these_parameters(asked: Asked) -> Answer:
    if _format(asked) == "json_schema":
        return bad(404, "No endpoints found that can handle the requested parameters.", 404)
    return good(asked)


@behaviour("OpenAI: o1 and later", requests=5)
def max_completion_tokens(asked: Asked) -> Answer:
    if "max_tokens" in asked.body:
        said = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead."
        )
        return bad(400, said, "unsupported_parameter", param="max_tokens")
    return good(asked)


@behaviour("OpenAI: reasoning models", requests=5)
def no_temperature(asked: Asked) -> Answer:
    if "temperature" in asked.body:
        said = (
            "Unsupported value: 'temperature' does not support 0.0 with this model. Only the "
            "default (1) value is supported."
        )
        return bad(400, said, "unsupported_value", param="temperature")
    return good(asked)


@behaviour("TGI", requests=5, says="no temperature of 0")
def positive_temperature(asked: Asked) -> Answer:
    if asked.body.get("temperature") == 0:
        return raw(
            422, '{"error": "`temperature` must be strictly positive", "error_type": "validation"}'
        )
    return good(asked) if "temperature" in asked.body else bad(400, "temperature, please")


@behaviour("Gemma, older Mistral", requests=5)
def no_system_message(asked: Asked) -> Answer:
    if asked.body["messages"][0]["role"] == "system":
        return bad(400, "System role not supported")
    return good(asked)


@behaviour("vLLM with Gemma", requests=5)
def roles_must_alternate(asked: Asked) -> Answer:
    if asked.body["messages"][0]["role"] == "system":
        return bad(400, "Conversation roles must alternate user/assistant/user/assistant/...")
    return good(asked)


@behaviour("OpenAI", requests=6, temperature=0.5)
def no_seed(asked: Asked) -> Answer:
    if "seed" in asked.body:
        return bad(400, "Unrecognized request argument supplied: seed")
    return good(asked)


@behaviour("deepeval issue 1965", reasoning_effort="low", requests=4)
def reasoning_effort(asked: Asked) -> Answer:
    return (
        good(asked) if asked.body.get("reasoning_effort") == "low" else bad(400, "effort, please")
    )


@behaviour("models without one", reasoning_effort="low", requests=5)
def no_reasoning_effort(asked: Asked) -> Answer:
    if "reasoning_effort" in asked.body:
        return bad(400, "Unsupported parameter: 'reasoning_effort'", param="reasoning_effort")
    return good(asked)


@behaviour("agno issue 3112", extra_body={"chat_template_kwargs": {"enable_thinking": False}})
def extra_body(asked: Asked) -> Answer:
    off = asked.body.get("chat_template_kwargs") == {"enable_thinking": False}
    return good(asked) if off else bad(400, "thinking off, please")


@behaviour(
    "wso2/agent-manager issue 1014",
    headers={"X-Team": "red", "X-Token": {"env": "BEHAVIOUR_TOKEN"}},
    environment={"BEHAVIOUR_TOKEN": "planted-token-123"},
)
def headers(asked: Asked) -> Answer:
    given = (asked.headers.get("x-team"), asked.headers.get("x-token"))
    return good(asked) if given == ("red", "planted-token-123") else bad(401, "no entry")


@behaviour(
    "deepeval issue 359: Azure",
    api_version="2024-10-21",
    environment={"OPENAI_API_KEY": "planted-key-456"},
)
def azure(asked: Asked) -> Answer:
    has_version = asked.path.endswith("/chat/completions?api-version=2024-10-21")
    key = asked.headers.get("api-key") == "planted-key-456" and "authorization" not in asked.headers
    return good(asked) if has_version and key else bad(401, "Access denied")


@behaviour("any", fails=True, scored=0, requests=5, says="supports at most 4096")
def max_tokens_beyond_the_model(asked: Asked) -> Answer:
    said = "max_tokens is too large: 64. This model supports at most 4096 completion tokens"
    return bad(400, said, param="max_tokens")


@behaviour("any", fails=True, scored=0, requests=5, says="refuses every request")
def everything_refused(asked: Asked) -> Answer:
    return bad(400, "Invalid 'messages'")
