"""`score: expected`: log-probabilities as servers give them."""

from __future__ import annotations

import math

from .kit import Answer, Asked, bad, behaviour, digit_logprobs, good


@behaviour("OpenAI", score="expected")
def digits(asked: Asked) -> Answer:
    return good(asked)


@behaviour("Llama 2, Mistral: SentencePiece", score="expected")
def spelt_with_a_low_line(asked: Asked) -> Answer:
    return good(asked, logprobs=digit_logprobs(asked.digit, "▁{}"))


@behaviour("GPT-2, Qwen: bytes", score="expected")
def spelt_with_a_dotted_g(asked: Asked) -> Answer:
    return good(asked, logprobs=digit_logprobs(asked.digit, "Ġ{}"))


@behaviour("Llama 2: byte tokens", score="expected")
def spelt_as_a_byte(asked: Asked) -> Answer:
    given = digit_logprobs(asked.digit)
    spelt = f"<0x{ord(str(asked.digit)):02X}>"
    given["content"][0]["token"] = given["content"][0]["top_logprobs"][0]["token"] = spelt
    return good(asked, logprobs=given)


@behaviour("SGLang: the text is in `bytes`", score="expected")
def spelt_in_bytes(asked: Asked) -> Answer:
    given = digit_logprobs(asked.digit)
    for token in (given["content"][0], given["content"][0]["top_logprobs"][0]):
        token.update(token="token_id:23", bytes=list(str(asked.digit).encode()))
    return good(asked, logprobs=given)


@behaviour("gpt-oss, Gemma: a special token first", score="expected")
def after_a_special_token(asked: Asked) -> Answer:
    given = digit_logprobs(asked.digit, before=("<|im_start|>", "\n"))
    return good(asked, logprobs=given)


@behaviour("vLLM with a reasoning parser", score="expected")
def after_thinking(asked: Asked) -> Answer:
    before = ("<think>", "7", " or", " 8", "</think>", "\n\n")
    return good(asked, logprobs=digit_logprobs(asked.digit, before=before))


@behaviour("Together: the older form", score="expected")
def older_form(asked: Asked) -> Answer:
    top = {str(asked.digit): math.log(0.9), "x": math.log(0.1)}
    given = {"tokens": [str(asked.digit)], "token_logprobs": [-0.1], "top_logprobs": [top]}
    return good(asked, logprobs=given)


@behaviour("vLLM", score="expected")
def minus_infinity(asked: Asked) -> Answer:
    given = digit_logprobs(asked.digit)
    given["content"][0]["top_logprobs"].append({"token": "5", "logprob": -math.inf})
    return good(asked, logprobs=given)


@behaviour("any", score="expected")
def not_a_number(asked: Asked) -> Answer:
    given = digit_logprobs(asked.digit)
    given["content"][0]["top_logprobs"].append({"token": "5", "logprob": math.nan})
    return good(asked, logprobs=given)


@behaviour("deepeval issue 2548", score="expected", requests=6)
def five_at_most(asked: Asked) -> Answer:
    if asked.body.get("top_logprobs", 0) > 5:
        said = "Invalid value for 'top_logprobs': must be less than or equal to 5."
        return bad(400, said, param="top_logprobs")
    return good(asked)


@behaviour("vLLM --max-logprobs", score="expected", requests=6)
def five_at_most_as_vllm_says(asked: Asked) -> Answer:
    if asked.body.get("top_logprobs", 0) > 5:
        return bad(400, "Requested sample logprobs of 20, which is greater than max allowed: 5")
    return good(asked)


@behaviour("the user's own number", score="expected", top_logprobs=5, requests=4)
def five_by_setting(asked: Asked) -> Answer:
    return good(asked) if asked.body.get("top_logprobs") == 5 else bad(400, "five, please")


@behaviour("DashScope, DeepSeek reasoner", score="expected", requests=7, says="verbalized")
def refused_by_status_400(asked: Asked) -> Answer:
    if asked.body.get("logprobs"):
        return bad(400, "This model does not support logprobs.", param="logprobs")
    return good(asked)


@behaviour("OpenAI", score="expected", requests=7, says="verbalized")
def refused_by_status_403(asked: Asked) -> Answer:
    if asked.body.get("logprobs"):
        return bad(403, "You are not allowed to request logprobs from this model.")
    return good(asked)


@behaviour("transformers serve, Ollama: ignored", score="expected", requests=12, says="verbalized")
def not_given(asked: Asked) -> Answer:
    return good(asked, logprobs=None)


@behaviour("OpenRouter, SillyTavern issue 5804: routing", score="expected", rows=12, requests=14)
def one_row_without(asked: Asked) -> Answer:
    return good(asked, logprobs=None) if asked.row == 7 else good(asked)


@behaviour("the same, the first row", score="expected", rows=12, requests=14)
def the_first_answer_without(asked: Asked) -> Answer:
    return good(asked, logprobs=None) if asked.number == 0 else good(asked)


@behaviour("a server that samples at 0 first", score="expected", rows=30, says="everything on one")
def one_hot(asked: Asked) -> Answer:
    top = [{"token": str(asked.digit), "logprob": 0.0}, {"token": "x", "logprob": -9999.0}]
    return good(asked, logprobs={"content": [{**top[0], "top_logprobs": top}]})


@behaviour("a model that does not answer", score="expected", scored=3, requests=9)
def hardly_a_digit(asked: Asked) -> Answer:
    if asked.row != 2:
        return good(asked)
    top = [{"token": "2", "logprob": math.log(0.003)}, {"token": "The", "logprob": -0.01}]
    return good(asked, logprobs={"content": [{"token": "2", "top_logprobs": top}]})


@behaviour("a row without any, filtered at the second try", score="expected", rows=5, scored=5)
def filtered_at_the_second_try(asked: Asked) -> Answer:
    if asked.row:
        return good(asked)
    if asked.tries == 1:
        return bad(400, "The response was filtered: content management policy", "content_filter")
    return good(asked) if asked.tries else good(asked, logprobs=None)
