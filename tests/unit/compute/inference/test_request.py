"""A reply is gathered from the events of its stream."""

import pytest

from mafunzo.compute.inference.request import Delta, Failed, Finished, FinishReason, PromptRead, TokenStream
from mafunzo.compute.inference.sampler import TokenLogprob
from mafunzo.errors import OutOfMemory

END = Finished(FinishReason.STOP, 3, 2)


def stream(*events) -> TokenStream:
    stream = TokenStream(lambda: None)
    for event in events:
        stream.put(event)
    return stream


def test_a_reply_adds_up_what_came():
    logprob = TokenLogprob(5, -0.5)
    reply = stream(PromptRead((None, logprob)), Delta("Hel", (5,), (logprob,)), Delta("lo", (6,)), END).reply()
    assert (reply.text, reply.token_ids, reply.finished) == ("Hello", [5, 6], END)
    assert (reply.logprobs, reply.prompt_logprobs) == ([logprob], [None, logprob])


def test_the_error_of_a_request_is_raised_to_whoever_waits():
    with pytest.raises(OutOfMemory, match="full"):
        stream(Delta("Hel"), Failed(OutOfMemory("full"))).reply()


@pytest.mark.parametrize("last", [END, Failed(OutOfMemory("full"))])
def test_a_stream_ends_with_its_last_event(last):
    assert list(stream(Delta("a"), last, Delta("never"))) == [Delta("a"), last]
