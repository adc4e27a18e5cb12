"""Talk to an endpoint over OpenAI's Responses API: the server keeps the conversation, the next turn only names the one before.

python examples/ask_with_responses.py ENDPOINT
"""

import sys

from openai import OpenAI

from mafunzo import Workspace


def main(name: str) -> None:
    """Have a conversation of two turns with the endpoint `name`, the second as a stream, and delete it."""
    with Workspace() as workspace:
        endpoint = workspace.endpoints.get(name)
        client = OpenAI(base_url=endpoint.url, api_key=endpoint.keys[0])
        first = client.responses.create(
            model=name, instructions="Answer in one sentence.", input="Where shall I travel?", max_output_tokens=40
        )
        print(first.output_text)
        events = client.responses.create(
            model=name, previous_response_id=first.id, input="And in winter?", max_output_tokens=40, stream=True
        )
        for event in events:
            if event.type == "response.output_text.delta":
                print(event.delta, end="", flush=True)
            elif event.type in ("response.completed", "response.incomplete"):
                print()
                client.responses.delete(event.response.id)
        client.responses.delete(first.id)


if __name__ == "__main__":
    main(*sys.argv[1:])
