"""Ask an endpoint with OpenAI's own SDK: only the address and the key differ.

python examples/ask_with_openai.py ENDPOINT
"""

import sys

from openai import OpenAI

from mafunzo import Workspace


def main(name: str) -> None:
    """Ask the endpoint `name` one thing, streaming the answer."""
    with Workspace() as workspace:
        endpoint = workspace.endpoints.get(name)
        client = OpenAI(base_url=endpoint.url, api_key=endpoint.keys[0])
        answer = client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": "Where shall I travel?"}], max_tokens=40, stream=True
        )
        for chunk in answer:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
        print()


if __name__ == "__main__":
    main(*sys.argv[1:])
