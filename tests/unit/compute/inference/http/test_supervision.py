"""What the supervisor asks a worker: whether it is ready, what it serves, and whether it serves what was tuned."""

from mafunzo.compute.chat.template import render_ids
from mafunzo.entities.conversation import Conversation, Message

TALK = [{"role": "user", "content": "Hi"}]


def test_a_worker_with_a_model_is_ready(ask):
    answer = ask("GET", "/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready"})


def test_a_model_is_listed_with_its_context(ask):
    [model] = ask("GET", "/v1/models").json()["data"]
    assert (model["id"], model["owned_by"], model["max_model_len"]) == ("chat", "mafunzo", 2048)


def test_the_facts_that_serving_is_proven_by_are_told(ask, service):
    facts = ask("GET", "/info").json()
    assert facts["stop_token_ids"] == sorted(service.loaded.engine.stop_token_ids)
    assert (facts["dtype"], facts["max_batch"], facts["name"]) == ("float32", 4, "chat")
    assert facts["rss_mb"] > 1 and facts["parameters"] == service.loaded.parameters


def test_a_conversation_is_rendered_and_a_text_is_not(ask, service):
    tokenizer = service.loaded.tokenizer
    conversation = Conversation((Message("user", "Hi"),))
    answer = ask("POST", "/tokenize", json={"messages": TALK}).json()
    assert answer["tokens"] == render_ids(tokenizer, conversation, add_generation_prompt=True)
    shorter = ask("POST", "/tokenize", json={"messages": TALK, "add_generation_prompt": False}).json()
    assert shorter["tokens"] == render_ids(tokenizer, conversation) and shorter["count"] < answer["count"]
    plain = ask("POST", "/tokenize", json={"prompt": "Hi", "add_special_tokens": False}).json()
    assert plain["tokens"] == tokenizer("Hi", add_special_tokens=False)["input_ids"]


def test_metrics_are_prometheus_s(ask):
    ask("POST", "/v1/completions", json={"prompt": "Hello", "max_tokens": 2, "temperature": 0})
    answer = ask("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = dict(line.rpartition(" ")[::2] for line in answer.text.splitlines() if not line.startswith("#"))
    assert float(lines["mafunzo_generated_tokens_total"]) >= 2
    assert float(lines["mafunzo_sequences_running"]) == float(lines["mafunzo_sequences_waiting"]) == 0


def test_metrics_count_what_the_prefix_cache_saved(ask):
    def counted(name: str) -> float:
        lines = ask("GET", "/metrics").text.splitlines()
        return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))

    body = {"prompt": [9] * 40, "max_tokens": 1, "temperature": 0}
    ask("POST", "/v1/completions", json=body)
    before = [counted(name) for name in ("mafunzo_prompt_tokens_total", "mafunzo_cached_prompt_tokens_total")]
    ask("POST", "/v1/completions", json=body)
    after = [counted(name) for name in ("mafunzo_prompt_tokens_total", "mafunzo_cached_prompt_tokens_total")]
    assert [now - was for now, was in zip(after, before, strict=True)] == [40, 32]
