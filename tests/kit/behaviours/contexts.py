"""Servers that cut prompts to their context and say nothing, and texts that only look as if cut."""

from __future__ import annotations

from .kit import Answer, Asked, behaviour, good, tokens_of

_PROPS = {"/props": {"default_generation_settings": {"n_ctx": 3000}, "total_slots": 1}}
_RUNNING = {"/api/ps": {"models": [{"name": "m:latest", "context_length": 3000}]}}
_SHOWN = {
    "/api/ps": {"models": []},
    "/api/show": {"parameters": 'stop "<|im_end|>"\nnum_ctx 3000'},
}
_LANGUAGES = (
    " word{}",
    " 语言模型的不确定性{}。",
    " Unsicherheit{} über Wörter,",
    "\n    if row[{}] != total: return f(x, y)",
    " неопределённость {} слова",
    " the quick brown fox jumps over a lazy dog and {} cats",
)


def counted(asked: Asked) -> int:
    """Tokens of the whole prompt."""
    return tokens_of(asked.text)


def _cut(asked: Asked, most: int) -> Answer:
    return good(asked, usage={"prompt_tokens": min(counted(asked), most)})


@behaviour("any: 18,000 characters in 4,096 tokens", scored=3, requests=8, says="cuts prompts",
           size=(0, 0, 18_000, 700), filler=(" counted",), context=4096)  # fmt: skip
def prompt_cut_to_the_list(asked: Asked) -> Answer:
    return _cut(asked, 4096)


@behaviour("koboldcpp: room for the answer", scored=3, requests=8, says="cuts prompts",
           size=(0, 0, 14_000, 700), context=4096)  # fmt: skip
def prompt_cut_beside_the_answer(asked: Asked) -> Answer:
    return _cut(asked, 4096 - asked.body["max_tokens"])


@behaviour("Ollama issue 17427: half the context", scored=3, requests=8, says="cuts prompts",
           size=(0, 0, 9_000, 700), context=None, others=_RUNNING)  # fmt: skip
def prompt_cut_to_half_of_the_context(asked: Asked) -> Answer:
    return good(asked, usage={"prompt_tokens": 1502 if asked.row == 2 else counted(asked)})


@behaviour("Ollama: context of the loaded model", scored=3, requests=8, says="cuts prompts",
           size=(0, 0, 9_000, 700), context=None, others=_RUNNING)  # fmt: skip
def prompt_cut_to_a_loaded_context(asked: Asked) -> Answer:
    return _cut(asked, 3000)


@behaviour("Ollama: num_ctx of the model's file", scored=3, requests=8, says="cuts prompts",
           size=(0, 0, 9_000, 700), context=None, others=_SHOWN)  # fmt: skip
def prompt_cut_to_num_ctx(asked: Asked) -> Answer:
    return _cut(asked, 3000)


@behaviour("llama.cpp: context of a slot", scored=3, requests=8, says="cuts prompts",
           size=(0, 0, 9_000, 700), context=None, others=_PROPS)  # fmt: skip
def prompt_cut_to_a_slot(asked: Asked) -> Answer:
    return _cut(asked, 3000)


@behaviour("any: nothing is told, by the rate", rows=12, scored=11, requests=28,
           says="cuts prompts", size=(*range(100, 1200, 100), 12_000), context=None)  # fmt: skip
def prompt_cut_and_nothing_told(asked: Asked) -> Answer:
    return _cut(asked, 2500)


@behaviour("any: a little beyond a round number", rows=12, scored=11, requests=28,
           says="cuts prompts", size=(*range(100, 1200, 100), 6_500), context=None)  # fmt: skip
def prompt_cut_a_little(asked: Asked) -> Answer:
    return _cut(asked, 2048)


@behaviour("a context that is known, and languages of other rates", rows=18, requests=40,
           size=(300, 9_000, 600, 4_000, 12_000), filler=_LANGUAGES, context=131_072)  # fmt: skip
def languages_in_a_large_context(asked: Asked) -> Answer:
    return _cut(asked, 131_072)


@behaviour("languages of other rates, and nothing told", rows=30, requests=64,
           size=(300, 5_000, 600, 2_000, 8_000, 900, 11_000), filler=_LANGUAGES,
           context=None)  # fmt: skip
def languages_where_nothing_is_told(asked: Asked) -> Answer:
    return _cut(asked, 131_072)
