"""Rate limits, bills, outages and silence."""

from __future__ import annotations

import time

from .kit import DROP, HANG, Answer, Asked, bad, behaviour, good, raw

_GEMINI = (
    "You exceeded your current quota, please check your plan and billing details. For more "
    "information on this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits."
)


@behaviour("OpenAI")
def plain(asked: Asked) -> Answer:
    return good(asked)


@behaviour("Groq, continue issue 10920", requests=8)
def limit_that_names_billing(asked: Asked) -> Answer:
    said = (
        "Rate limit reached for model `llama` on tokens per minute (TPM): Limit 6000, Used 5900, "
        "Requested 700. Please try again in 0.2s. Need more tokens? Upgrade to Dev Tier today at "
        "https://console.groq.com/settings/billing"
    )
    return bad(429, said, "rate_limit_exceeded", "tokens") if asked.number == 1 else good(asked)


@behaviour("OpenAI, llm issue 6", requests=8)
def young_account(asked: Asked) -> Answer:
    said = (
        "Rate limit reached for default-gpt-3.5-turbo on requests per min. Limit: 3 / min. Please "
        "try again in 200ms. Please add a payment method to your account to increase your rate "
        "limit. Visit https://platform.openai.com/account/billing to add a payment method."
    )
    return bad(429, said, None, "requests") if asked.number == 1 else good(asked)


@behaviour("Gemini, gemini-cli issue 8437", requests=8)
def gemini_quota_with_a_delay(asked: Asked) -> Answer:
    if asked.number != 1:
        return good(asked)
    delay = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.3s"}]
    error = {"code": 429, "message": _GEMINI, "status": "RESOURCE_EXHAUSTED", "details": delay}
    return 429, [{"error": error}], {}


@behaviour("Gemini, a day's quota", requests=40, fails=True, scored=0, patience=2, says="quota")
def gemini_quota_without_a_delay(asked: Asked) -> Answer:
    error = {"code": 429, "message": _GEMINI, "status": "RESOURCE_EXHAUSTED"}
    return 429, [{"error": error}], {}


@behaviour("Azure", requests=8)
def azure_call_rate(asked: Asked) -> Answer:
    said = "Requests have exceeded call rate limit of your tier. Please retry after 1 second."
    if asked.number:
        return good(asked)
    return bad(429, said, "429", headers={"retry-after-ms": "100"})


@behaviour("OpenAI", fails=True, scored=0, requests=2, says="no credit left")
def insufficient_quota(asked: Asked) -> Answer:
    said = "You exceeded your current quota, please check your plan and billing details."
    return bad(429, said, "insufficient_quota", "insufficient_quota")


@behaviour("proxies: a quota that comes back", requests=8)
def insufficient_quota_with_a_retry_time(asked: Asked) -> Answer:
    said = "You exceeded your current quota, please check your plan and billing details."
    if asked.number != 1:
        return good(asked)
    return bad(429, said, "insufficient_quota", headers={"Retry-After": "0.2"})


@behaviour("OpenAI", fails=True, scored=0, requests=2, says="no credit left")
def billing_hard_limit(asked: Asked) -> Answer:
    return bad(400, "Billing hard limit has been reached", "billing_hard_limit_reached")


@behaviour("OpenRouter, DeepSeek", fails=True, scored=0, requests=2, says="no credit left")
def payment_required(asked: Asked) -> Answer:
    return bad(402, "Insufficient Balance", "invalid_request_error")


@behaviour("Anthropic", fails=True, scored=0, requests=2, says="no credit left")
def anthropic_credit(asked: Asked) -> Answer:
    return bad(400, "Your credit balance is too low to access the Anthropic API.")


@behaviour("Moonshot", fails=True, scored=0, requests=2, says="no credit left")
def moonshot_balance(asked: Asked) -> Answer:
    said = "Your account is suspended due to insufficient balance, please recharge your account"
    return bad(429, said, None, "exceeded_current_quota_error")


@behaviour("DashScope", fails=True, scored=0, requests=2, says="no credit left")
def dashscope_arrears(asked: Asked) -> Answer:
    said = "Access denied, please make sure your account is in good standing."
    return bad(400, said, "Arrearage", "Arrearage")


@behaviour("OpenAI", scored=3, requests=8, says="too long")
def one_row_beyond_the_tokens_a_minute(asked: Asked) -> Answer:
    said = "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 40000."
    return bad(429, said, "rate_limit_exceeded", "tokens") if asked.row == 2 else good(asked)


@behaviour("Groq", scored=3, requests=8, says="too long")
def one_row_beyond_what_groq_takes(asked: Asked) -> Answer:
    said = "Request too large for model `x` on tokens per minute (TPM): Limit 6000, Requested 7000."
    return bad(413, said, "rate_limit_exceeded", "tokens") if asked.row == 2 else good(asked)


@behaviour("any", fails=True, scored=0, requests=60, patience=2, says="waiting|nothing but errors")
def nothing_but_429(asked: Asked) -> Answer:
    return bad(429, "Rate limit reached", "rate_limit_exceeded")


@behaviour("OpenAI, a day's limit", fails=True, scored=0, requests=3, says="5.0 hours", patience=4)
def a_wait_of_hours(asked: Asked) -> Answer:
    return bad(429, "Rate limit reached for requests per day. Please try again in 5h.", "x")


@behaviour("any", fails=True, requests=40, patience=2, scored=0, says="60 s, which is longer")
def a_wait_beyond_patience_by_header(asked: Asked) -> Answer:
    return bad(429, "slow down", "rate_limit", headers={"Retry-After": "60"})


@behaviour("any: told by a date in the past", requests=8)
def retry_after_as_a_date(asked: Asked) -> Answer:
    if asked.number != 1:
        return good(asked)
    return bad(429, "slow", headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})


@behaviour("OpenRouter", requests=8)
def retry_time_of_an_epoch(asked: Asked) -> Answer:
    reset = str(int(time.time() * 1000) + 300)
    more = {"metadata": {"headers": {"X-RateLimit-Reset": reset}}}
    return bad(429, "Rate limit exceeded", 429, **more) if asked.number == 1 else good(asked)


@behaviour("OpenAI", requests=8)
def retry_time_of_a_reset_header(asked: Asked) -> Answer:
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "300ms"}
    return bad(429, "Rate limit reached", headers=headers) if asked.number == 1 else good(asked)


@behaviour("a wait that is told", requests=8, says="waiting 4 s")
def a_wait_of_seconds(asked: Asked) -> Answer:
    headers = {"Retry-After": "3.5"}
    return bad(429, "slow down", headers=headers) if asked.number == 0 else good(asked)


@behaviour("Hugging Face, llama.cpp: a cold start", requests=14, patience=30)
def cold_start(asked: Asked) -> Answer:
    return bad(503, "Loading model", kind="unavailable_error") if asked.seconds < 3 else good(asked)


@behaviour("any", fails=True, scored=0, requests=40, patience=2, says="nothing but errors for")
def nothing_but_503(asked: Asked) -> Answer:
    return raw(503, "upstream connect error or disconnect/reset before headers")


@behaviour("Anthropic: overloaded", requests=8)
def overloaded_529(asked: Asked) -> Answer:
    return bad(529, "Overloaded", kind="overloaded_error") if asked.number == 1 else good(asked)


@behaviour("Cloudflare", requests=8)
def gateway_page_502(asked: Asked) -> Answer:
    page = "<html><head><title>502 Bad Gateway</title></head><body></body></html>"
    return raw(502, page, content_type="text/html") if asked.number == 1 else good(asked)


@behaviour("any: one row that always breaks the server", scored=3, requests=8, max_retries=2)
def one_row_always_500(asked: Asked) -> Answer:
    return bad(500, "Internal server error") if asked.row == 2 else good(asked)


@behaviour("any: the first row breaks the server", scored=3, requests=10, max_retries=2)
def the_first_row_always_500(asked: Asked) -> Answer:
    return bad(500, "Internal server error") if asked.row == 0 else good(asked)


@behaviour("any", scored=3, requests=8, timeout=0.6, max_retries=1)
def one_row_hangs(asked: Asked) -> Answer:
    return HANG if asked.row == 2 else good(asked)


@behaviour(
    "any", fails=True, scored=0, requests=12, timeout=0.5, patience=2, says="no answer within"
)
def everything_hangs(asked: Asked) -> Answer:
    return HANG


@behaviour(
    "any: silence is told", requests=6, timeout=3, patience=4, says="has answered nothing for"
)
def slow_first_answer(asked: Asked) -> Answer:
    return HANG if asked.number == 0 else good(asked)


@behaviour("any", requests=8)
def connection_lost(asked: Asked) -> Answer:
    return DROP if asked.number == 1 else good(asked)


@behaviour("any", fails=True, scored=0, requests=40, patience=2, says="connection lost")
def connection_always_lost(asked: Asked) -> Answer:
    return DROP
