"""A small real model as a judge behind `/v1/chat/completions`, on this machine.

    python benchmarks/small_judge.py --model FOLDER [--port 0]

As vLLM, SGLang and llama.cpp do it, an answer that is asked for by a JSON schema of whole numbers
is written by the schema: names and signs are given, and of the numbers only the digits are the
model's. Log-probabilities are those of the whole vocabulary. Any other request is answered
greedily, token by token. What the model has read of the first message is kept, so that a long
rubric is read once.
"""

from __future__ import annotations

import argparse
import copy
import threading
from typing import Any

import torch
from json_server import serving
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache


class SmallJudge:
    """Reads chats and writes answers.

    Args:
        folder: of a causal language model with a chat template, whose tokenizer writes each digit
            as a token of its own.
    """

    def __init__(self, folder: str) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._model = model.eval()
        self._digits = [self._tokenizer.convert_tokens_to_ids(str(digit)) for digit in range(10)]
        self._read: tuple[list[int], DynamicCache] = ([], DynamicCache())

    @torch.no_grad()
    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body of a chat completion."""
        ids = self._tokens(body["messages"])
        cache = self._prefix(ids, self._tokens(body["messages"][:1], prompt=False))
        logits_V = self._step(ids[cache.get_seq_length() :], cache)
        schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema")
        if schema:
            text, tokens = self._by_schema(schema, logits_V, cache, body.get("top_logprobs") or 0)
            reason = "stop"
        else:
            text, reason = self._freely(logits_V, cache, body.get("max_tokens") or 64)
            tokens = []
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": reason,
            "logprobs": {"content": tokens} if tokens and body.get("logprobs") else None,
        }
        written = len(self._tokenizer.encode(text, add_special_tokens=False))
        usage = {"prompt_tokens": len(ids), "completion_tokens": written}
        usage["total_tokens"] = len(ids) + written
        return {"model": body["model"], "choices": [choice], "usage": usage}

    def _tokens(self, messages: list[dict[str, str]], prompt: bool = True) -> list[int]:
        text = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=prompt, tokenize=False
        )
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _prefix(self, ids: list[int], first: list[int]) -> DynamicCache:
        """What was read of the first message, to go on from."""
        if first != ids[: len(first)]:
            return DynamicCache()
        if self._read[0] != first:
            cache = DynamicCache()
            self._step(first, cache)
            self._read = (first, cache)
        return copy.deepcopy(self._read[1])

    def _step(self, ids: list[int], cache: DynamicCache) -> torch.Tensor:
        """Logits of shape (V,) behind these tokens."""
        out = self._model(torch.tensor([ids]), past_key_values=cache, logits_to_keep=1)
        logits_V: torch.Tensor = out.logits[0, -1].float()
        return logits_V

    def _freely(
        self, logits_V: torch.Tensor, cache: DynamicCache, max_tokens: int
    ) -> tuple[str, str]:
        ids: list[int] = []
        while len(ids) < max_tokens:
            token = int(logits_V.argmax())
            if token == self._tokenizer.eos_token_id:
                return self._tokenizer.decode(ids), "stop"
            ids.append(token)
            logits_V = self._step([token], cache)
        return self._tokenizer.decode(ids), "length"

    def _by_schema(
        self, schema: dict[str, Any], logits_V: torch.Tensor, cache: DynamicCache, top: int
    ) -> tuple[str, list[dict[str, Any]]]:
        text, tokens = "", []
        for place, (name, value) in enumerate(schema["properties"].items()):
            given = f'{", " if place else "{"}"{name}": '
            ids = self._tokenizer.encode(given, add_special_tokens=False)
            tokens += [{"token": self._tokenizer.decode([i]), "logprob": 0.0} for i in ids]
            logits_V = self._step(ids, cache)
            digits, logits_V = self._number(logits_V, cache, int(value["maximum"]), tokens, top)
            text += given + digits
        return text + "}", [*tokens, {"token": "}", "logprob": 0.0}]

    def _number(
        self,
        logits_V: torch.Tensor,
        cache: DynamicCache,
        most: int,
        tokens: list[dict[str, Any]],
        top: int,
    ) -> tuple[str, torch.Tensor]:
        """The likeliest digits, as long as they are likelier than the end and make no more."""
        digits = ""
        end = self._tokenizer.convert_tokens_to_ids("}")
        while True:
            allowed = [d for d in range(10) if int(digits + str(d)) <= most and digits != "0"]
            if not allowed:
                return digits, logits_V
            best = max(allowed, key=lambda d: float(logits_V[self._digits[d]]))
            if digits and logits_V[end] >= logits_V[self._digits[best]]:
                return digits, logits_V
            tokens.append(self._shown(logits_V, self._digits[best], top))
            digits += str(best)
            if most < 10:
                return digits, self._step([self._digits[best]], cache)
            logits_V = self._step([self._digits[best]], cache)

    def _shown(self, logits_V: torch.Tensor, token: int, top: int) -> dict[str, Any]:
        logprobs_V = logits_V.log_softmax(0)
        best = logprobs_V.topk(top).indices.tolist() if top else []
        likely = [
            {"token": self._tokenizer.decode([i]), "logprob": float(logprobs_V[i])} for i in best
        ]
        text = self._tokenizer.decode([token])
        return {"token": text, "logprob": float(logprobs_V[token]), "top_logprobs": likely}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    with serving(SmallJudge(arguments.model).answer, arguments.port) as address:
        print(address, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
