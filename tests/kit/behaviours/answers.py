"""What judges write, how it is charged, and what they had read."""

from __future__ import annotations

import json

from .kit import Answer, Asked, behaviour, good, raw


@behaviour("several models")
def fenced(asked: Asked) -> Answer:
    return good(asked, f"```json\n{asked.stated}\n```")


@behaviour("several models")
def fenced_on_one_line(asked: Asked) -> Answer:
    return good(asked, f"```json {asked.stated} ```")


@behaviour("several models")
def fenced_in_capitals(asked: Asked) -> Answer:
    return good(asked, f"```JSON\n{asked.stated}\n```")


@behaviour("several models")
def prose_round_a_fence(asked: Asked) -> Answer:
    return good(asked, f"Here is my rating:\n```json\n{asked.stated}\n```\nI hope this helps!")


@behaviour("several models")
def prose_before(asked: Asked) -> Answer:
    return good(asked, f"Sure! {asked.stated}")


@behaviour("several models")
def number_as_text(asked: Asked) -> Answer:
    return good(asked, f'{{"uncertainty": "{asked.score}"}}')


@behaviour("servers that leave it in")
def trailing_special_token(asked: Asked) -> Answer:
    return good(asked, f"{asked.stated}<|im_end|>")


@behaviour("several models")
def a_reason_first(asked: Asked) -> Answer:
    return good(asked, f'{{"reason": "It says {{so}}.", "uncertainty": {asked.score}}}')


@behaviour("content in parts")
def parts(asked: Asked) -> Answer:
    return good(asked, [{"type": "text", "text": asked.stated}])


@behaviour("any", scored=3, requests=9, says="unparsable")
def one_row_in_prose(asked: Asked) -> Answer:
    return good(asked, "I would say 80.") if asked.row == 2 else good(asked)


@behaviour("any", scored=3, requests=9, says="unparsable")
def one_row_with_two_objects(asked: Asked) -> Answer:
    both = '{"uncertainty": 8} or {"uncertainty": 80}'
    return good(asked, both) if asked.row == 2 else good(asked)


@behaviour("any", scored=3, requests=9, says="unparsable")
def one_row_on_a_scale_to_1(asked: Asked) -> Answer:
    return good(asked, '{"uncertainty": 0.8}') if asked.row == 2 else good(asked)


@behaviour("read at the second try", requests=6)
def one_row_read_after_a_reminder(asked: Asked) -> Answer:
    return good(asked, "Eighty.") if asked.row == 2 and not asked.tries else good(asked)


@behaviour("any", rows=200, scored=0, fails=True, requests=40, says="none of 32 answers")
def nothing_but_prose(asked: Asked) -> Answer:
    return good(asked, "I would say 80.")


@behaviour("any", rows=200, scored=0, fails=True, requests=40, says="raise .*max_tokens")
def nothing_but_cut_answers(asked: Asked) -> Answer:
    return good(asked, "Well, the", finish_reason="length")


@behaviour("repeats at temperature 0", repeats=2, says="identical requests", requests=9)
def repeats_at_temperature_0(asked: Asked) -> Answer:
    return good(asked)


@behaviour("a model that calls a tool", scored=3, requests=9, says="unparsable")
def tool_call(asked: Asked) -> Answer:
    if asked.row != 2:
        return good(asked)
    call = {"id": "1", "type": "function", "function": {"name": "rate", "arguments": "{}"}}
    return good(asked, None, finish_reason="tool_calls", message={"tool_calls": [call]})


@behaviour("Groq: json_validate_failed", scored=3, requests=9, says="unparsable")
def failed_generation(asked: Asked) -> Answer:
    if asked.row != 2:
        return good(asked)
    error = {"message": "Failed to generate JSON.", "code": "json_validate_failed"}
    return 400, {"error": {**error, "failed_generation": "Eighty."}}, {}


@behaviour("Ollama issue 17889", scored=0, fails=True, size=20_000, rows=3, says="cuts prompts")
def prompts_cut_to_2048(asked: Asked) -> Answer:
    return good(asked, usage={"prompt_tokens": 2048})


@behaviour("Ollama: one long row", scored=3, requests=8, says="cuts prompts")
def one_prompt_cut(asked: Asked) -> Answer:
    return good(asked, usage={"prompt_tokens": 300} if asked.row == 2 else {})


@behaviour("servers that do not count")
def no_usage(asked: Asked) -> Answer:
    status, body, headers = good(asked)
    del body["usage"]
    return status, body, headers


@behaviour("servers that only stream")
def event_stream(asked: Asked) -> Answer:
    return raw(200, _events(asked, asked.stated), content_type="text/event-stream")


@behaviour("the same, broken off", requests=8)
def event_stream_broken_off(asked: Asked) -> Answer:
    events = _events(asked, asked.stated)
    if asked.number == 1:
        events = events[: len(events) // 2]
    return raw(200, events, content_type="text/event-stream")


@behaviour("Cloudflare, OpenRouter: white space to keep a connection open")
def leading_white_space(asked: Asked) -> Answer:
    _, body, _ = good(asked)
    return raw(200, "\n\n\n   " + json.dumps(body))


def _events(asked: Asked, text: str) -> str:
    def event(delta: dict[str, str], reason: str | None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return f"data: {json.dumps({'model': asked.body['model'], 'choices': [choice]})}\n\n"

    pieces = "".join(event({"content": character}, None) for character in text)
    return f"{event({'role': 'assistant'}, None)}{pieces}{event({}, 'stop')}data: [DONE]\n\n"
