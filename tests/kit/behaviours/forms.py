"""How answers are written, ended and counted; how log-probabilities come."""

from __future__ import annotations

import json
import math
from typing import Any

from .kit import Answer, Asked, behaviour, good, raw


def _score(asked: Asked, form: str) -> Answer:
    return good(asked, form.replace("N", str(asked.score)))


@behaviour("models that write Python")
def single_quotes(asked: Asked) -> Answer:
    return _score(asked, "{'uncertainty': N}")


@behaviour("models that write JavaScript")
def trailing_comma(asked: Asked) -> Answer:
    return _score(asked, '{\n  "uncertainty": N,\n}')


@behaviour("models that write JavaScript")
def bare_key(asked: Asked) -> Answer:
    return _score(asked, "{uncertainty: N}")


@behaviour("servers that encode twice")
def json_in_json(asked: Asked) -> Answer:
    return good(asked, json.dumps(json.dumps({"uncertainty": asked.score})))


@behaviour("Cloudflare Workers AI: JSON mode")
def content_as_an_object(asked: Asked) -> Answer:
    return good(asked, message={"content": {"uncertainty": asked.score}})


@behaviour("models that wrap")
def nested(asked: Asked) -> Answer:
    return _score(asked, '{"result": {"uncertainty": N}}')


@behaviour("models that wrap")
def in_a_list(asked: Asked) -> Answer:
    return _score(asked, '[{"uncertainty": N}]')


@behaviour("models with many digits")
def decimal(asked: Asked) -> Answer:
    return _score(asked, '{"uncertainty": N.0}')


@behaviour("several models")
def percent(asked: Asked) -> Answer:
    return _score(asked, '{"uncertainty": "N%"}')


@behaviour("several models: of a hundred", scored=3, requests=9, says="unparsable")
def one_row_of_a_hundred(asked: Asked) -> Answer:
    return good(asked, '{"uncertainty": "80/10"}') if asked.row == 2 else good(asked)


@behaviour("any", scored=3, requests=9, says="unparsable")
def one_row_null(asked: Asked) -> Answer:
    return good(asked, '{"uncertainty": null}') if asked.row == 2 else good(asked)


@behaviour("any", scored=3, requests=9, says="unparsable")
def one_row_a_key_twice(asked: Asked) -> Answer:
    twice = "{'uncertainty': 10, 'uncertainty': 90}"
    return good(asked, twice) if asked.row == 2 else good(asked)


@behaviour("any", scored=3, requests=9, says="unparsable")
def one_row_octal(asked: Asked) -> Answer:
    return good(asked, "{uncertainty: 0o10}") if asked.row == 2 else good(asked)


@behaviour("any", scored=3, requests=9, says="unparsable")
def one_row_true(asked: Asked) -> Answer:
    return good(asked, '{"uncertainty": true}') if asked.row == 2 else good(asked)


@behaviour("any", scored=3, requests=9, says="unparsable")
def one_row_beyond(asked: Asked) -> Answer:
    return good(asked, '{"uncertainty": 250}') if asked.row == 2 else good(asked)


@behaviour("models that repeat themselves")
def the_same_object_twice(asked: Asked) -> Answer:
    return good(asked, f"{asked.stated}\n\n{asked.stated}")


@behaviour("Gemini: finish reasons in capitals")
def finish_reason_in_capitals(asked: Asked) -> Answer:
    return good(asked, finish_reason="STOP")


@behaviour("Cohere")
def finish_reason_complete(asked: Asked) -> Answer:
    return good(asked, finish_reason="COMPLETE")


@behaviour("TGI", scored=3, requests=8, says="cut")
def finish_reason_max_tokens(asked: Asked) -> Answer:
    return good(asked, finish_reason="MAX_TOKENS" if asked.row == 2 else "eos_token")


@behaviour("Anthropic by OpenAI's door")
def finish_reason_end_turn(asked: Asked) -> Answer:
    return good(asked, finish_reason="end_turn")


@behaviour("content filter, with half an answer", scored=3, requests=8, says="refused")
def filtered_half_way(asked: Asked) -> Answer:
    if asked.row == 2:
        return good(asked, asked.stated, finish_reason="content_filter")
    return good(asked)


@behaviour("any: usage is null")
def usage_null(asked: Asked) -> Answer:
    return good(asked, top={"usage": None})


@behaviour("any: usage in text")
def usage_in_text(asked: Asked) -> Answer:
    return good(asked, usage={"prompt_tokens": "700", "completion_tokens": "8", "total_tokens": ""})


@behaviour("Anthropic's names: what is cached is not in input_tokens")
def usage_of_anthropic(asked: Asked) -> Answer:
    usage = {"input_tokens": 20, "cache_read_input_tokens": 500, "output_tokens": 8}
    return good(asked, top={"usage": usage})


@behaviour("vLLM: extra fields everywhere")
def more_fields(asked: Asked) -> Answer:
    more = {"prompt_logprobs": None, "kv_transfer_params": None, "service_tier": None}
    message = {"tool_calls": [], "function_call": None, "annotations": None, "audio": None}
    return good(asked, top=more, message=message, stop_reason=None, matched_stop=128009)


@behaviour("servers that give two choices")
def two_choices(asked: Asked) -> Answer:
    status, body, headers = good(asked)
    other = {**body["choices"][0], "index": 1, "message": {"content": '{"uncertainty": 0}'}}
    return status, {**body, "choices": [*body["choices"], other]}, headers


@behaviour("any: choices as an object", fails=True, scored=0, requests=4, says="without choices")
def choices_as_an_object(asked: Asked) -> Answer:
    return raw(200, json.dumps({"choices": {"message": {"content": asked.stated}}}))


@behaviour("the older completions", fails=True, scored=0, requests=4, says="without choices")
def text_instead_of_message(asked: Asked) -> Answer:
    return raw(200, json.dumps({"choices": [{"text": asked.stated, "finish_reason": "stop"}]}))


@behaviour("a thinking model that ends in its thoughts", scored=3, requests=9, says="unparsable")
def one_row_thinks_without_end(asked: Asked) -> Answer:
    if asked.row == 2:
        return good(asked, f"<think>perhaps {asked.stated}")
    return good(asked)


@behaviour("any: the numbers stand in the thinking too")
def numbers_in_the_thinking(asked: Asked) -> Answer:
    return good(asked, '<think>maybe {"uncertainty": 1}?</think>' + asked.stated)


@behaviour("any: and in its field")
def numbers_in_the_field(asked: Asked) -> Answer:
    return good(asked, message={"reasoning_content": '{"uncertainty": 1}'})


def _digits(asked: Asked, top: list[tuple[Any, float]], **more: Any) -> dict[str, Any]:
    likely = [{"token": token, "logprob": lp, **more} for token, lp in top]
    return {"content": [{**likely[0], "top_logprobs": likely}]}


@behaviour("vLLM: -9999 for what is not known", score="expected", requests=8)
def unlikely_tokens(asked: Asked) -> Answer:
    top = [(str(asked.digit), -0.01), *[(str(d), -9999.0) for d in range(10) if d != asked.digit]]
    return good(asked, logprobs=_digits(asked, top))


@behaviour("servers that give fewer than asked", score="expected", requests=8)
def one_token_alone(asked: Asked) -> Answer:
    return good(asked, logprobs=_digits(asked, [(str(asked.digit), -0.2)]))


@behaviour("spellings of one digit add up", score="expected", requests=8)
def spellings_add_up(asked: Asked) -> Answer:
    other = (asked.digit + 5) % 10
    digit = str(asked.digit)
    top = [(digit, math.log(0.3)), (f" {digit}", math.log(0.3)), (f"▁{digit}", math.log(0.4))]
    assert other != asked.digit
    return good(asked, logprobs=_digits(asked, top))


@behaviour("log-probabilities that are no numbers", score="expected", scored=0, fails=True)
def logprobs_null(asked: Asked) -> Answer:
    return good(asked, logprobs=_digits(asked, [(str(asked.digit), None)]))


@behaviour("lists that are empty", score="expected", requests=14, says="verbalized")
def no_top_logprobs(asked: Asked) -> Answer:
    if not asked.wants_digit:
        return good(asked)
    token = {"token": str(asked.digit), "logprob": -0.1, "top_logprobs": []}
    return good(asked, logprobs={"content": [token]})


@behaviour("Qwen: full-width and other digits", score="expected", scored=3, requests=9)
def one_row_in_other_digits(asked: Asked) -> Answer:
    if asked.row != 2:
        return good(asked)
    return good(asked, "２", logprobs=_digits(asked, [("２", -0.1)]))


@behaviour("models that fence even a digit", score="expected", requests=8)
def fenced_digit(asked: Asked) -> Answer:
    place = _digits(asked, [(str(asked.digit), math.log(0.9)), ("the", math.log(0.1))])["content"]
    before = [{"token": text, "logprob": 0.0, "top_logprobs": []} for text in ("```", "\n")]
    return good(asked, f"```\n{asked.digit}\n```", logprobs={"content": [*before, *place]})


@behaviour("models that emphasise", score="expected", requests=8)
def digit_in_bold(asked: Asked) -> Answer:
    place = _digits(asked, [(str(asked.digit), math.log(0.9)), ("the", math.log(0.1))])["content"]
    before = [{"token": "**", "logprob": 0.0, "top_logprobs": []}]
    return good(asked, f"**{asked.digit}**", logprobs={"content": [*before, *place]})
