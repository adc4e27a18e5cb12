"""The model that is served: its answers' headings, its texts of tokens, and what its template refuses."""

import pytest

from mafunzo.compute.inference.http.service import Service
from mafunzo.compute.inference.sampler import TokenLogprob
from mafunzo.entities.conversation import Conversation, Message
from mafunzo.errors import InvalidParameter, Unavailable


def test_a_model_that_loads_is_not_there_yet():
    service = Service("chat")
    with pytest.raises(Unavailable, match="'chat' is loading"):
        _ = service.loaded
    assert b"mafunzo_sequences_running 0.0" in service.metrics.render()


def test_every_answer_has_an_id_of_its_own():
    first, second = (Service("chat").heading("cmpl") for _ in range(2))
    assert first.id.startswith("cmpl-") and first.id != second.id and first.model == "chat"


def test_log_probabilities_come_with_their_texts(service):
    [token] = service.loaded.tokenizer("H", add_special_tokens=False)["input_ids"]
    [entry] = service.describe([TokenLogprob(token, -0.5, ((token, -0.5),))])
    assert (entry.token, entry.logprob, entry.top[0].token) == ("H", -0.5, "H")
    assert service.texts([token, token]) == ("H", "H")


def test_what_the_chat_template_refuses_is_the_request_s_fault(service, monkeypatch):
    monkeypatch.setattr(service.loaded.tokenizer, "chat_template", "{{ raise_exception('no system role') }}")
    with pytest.raises(InvalidParameter, match="no system role") as caught:
        service.prompt_ids(Conversation((Message("user", "Hi"),)), True)
    assert caught.value.param == "messages"
    assert caught.value.message.startswith("messages: ")
