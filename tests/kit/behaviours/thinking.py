"""Models that think before they answer."""

from __future__ import annotations

from .kit import Answer, Asked, behaviour, good


@behaviour("DeepSeek R1, Qwen 3")
def think_tags(asked: Asked) -> Answer:
    return good(asked, f'<think>Perhaps {{"uncertainty": 1}}?</think>\n\n{asked.stated}')


@behaviour("vLLM issue 31045")
def think_without_its_opening(asked: Asked) -> Answer:
    return good(asked, f'Perhaps {{"uncertainty": 1}}?\n</think>\n{asked.stated}')


@behaviour("Magistral")
def think_in_brackets(asked: Asked) -> Answer:
    return good(asked, f"[THINK]Hm. 50?[/THINK]{asked.stated}")


@behaviour("several models")
def several_blocks(asked: Asked) -> Answer:
    return good(asked, f"<think>a 1</think><think>b 2</think>{asked.stated}<think>c 3</think>")


@behaviour("Qwen 3 with thinking off")
def empty_block(asked: Asked) -> Answer:
    return good(asked, f"<think>\n\n</think>\n\n{asked.stated}")


@behaviour("gpt-oss without a parser")
def channels(asked: Asked) -> Answer:
    before = (
        "<|channel|>analysis<|message|>Hm, 50.<|end|><|start|>assistant<|channel|>final<|message|>"
    )
    return good(asked, f"{before}{asked.stated}<|return|>")


@behaviour("Kimi")
def kimi_marks(asked: Asked) -> Answer:
    return good(asked, f"◁think▷Hm, 7◁/think▷{asked.stated}")


@behaviour("Hunyuan")
def answer_tags(asked: Asked) -> Answer:
    return good(asked, f"<think>\nHm\n</think>\n<answer>\n{asked.stated}\n</answer>")


@behaviour("DeepSeek, vLLM")
def reasoning_field(asked: Asked) -> Answer:
    return good(asked, message={"reasoning_content": 'It says {"uncertainty": 1}.'})


@behaviour("OpenRouter")
def reasoning_field_of_openrouter(asked: Asked) -> Answer:
    return good(asked, message={"reasoning": '{"uncertainty": 1}', "reasoning_details": []})


@behaviour("Mistral")
def thinking_part(asked: Asked) -> Answer:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "7?"}]}
    return good(asked, [thought, {"type": "text", "text": asked.stated}])


@behaviour("vLLM issue 19222", scored=0, fails=True, requests=8, says="a score")
def answer_in_the_wrong_field(asked: Asked) -> Answer:
    return good(asked, message={"content": None, "reasoning_content": asked.stated})


@behaviour("all of them", scored=0, fails=True, requests=4, says="max_tokens")
def cut_while_thinking(asked: Asked) -> Answer:
    return good(asked, '<think>Perhaps {"uncertainty": 1}', finish_reason="length")


@behaviour("vLLM", scored=0, fails=True, requests=4, says="max_tokens")
def cut_in_the_field(asked: Asked) -> Answer:
    message = {"content": None, "reasoning_content": '{"uncertainty": 1}'}
    return good(asked, message=message, finish_reason="length")


@behaviour("Magistral", scored=0, fails=True, requests=4, says="max_tokens")
def thinking_part_alone(asked: Asked) -> Answer:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "7?"}]}
    return good(asked, [thought], finish_reason="length")


@behaviour("Gemini: no content at all", scored=0, fails=True, requests=4, says="max_tokens")
def cut_without_content(asked: Asked) -> Answer:
    return good(asked, message={"content": None}, finish_reason="length")


@behaviour("any", scored=3, requests=8, says="max_tokens")
def one_row_is_cut_while_thinking(asked: Asked) -> Answer:
    if asked.row != 2:
        return good(asked)
    return good(asked, "<think>It is hard", finish_reason="length")


@behaviour("a number that is cut: 8 of 85", scored=3, requests=8, says="max_tokens")
def one_number_is_cut(asked: Asked) -> Answer:
    if asked.row != 2:
        return good(asked)
    return good(asked, '{"uncertainty": 8', finish_reason="length")


@behaviour("a whole object, and cut after it", scored=3, requests=8, says="max_tokens")
def one_answer_is_cut_after_its_object(asked: Asked) -> Answer:
    if asked.row != 2:
        return good(asked)
    return good(asked, '{"uncertainty": 80} although, if', finish_reason="length")


@behaviour("inspect_ai issue 5528")
def reasoning_beside_the_completion(asked: Asked) -> Answer:
    prompt = len(asked.text) // 4
    usage = {"completion_tokens": 8, "total_tokens": prompt + 30}
    return good(asked, usage=usage)


@behaviour("Gemini: thinking counts in the total only")
def thinking_in_the_total(asked: Asked) -> Answer:
    details = {"reasoning_tokens": 20}
    return good(asked, usage={"completion_tokens": 8, "completion_tokens_details": details})
