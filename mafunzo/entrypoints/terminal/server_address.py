"""Where a server is found, and with what, for people."""

from pathlib import Path

from mafunzo.entities.server_address import ServerAddress


def address_lines(address: ServerAddress, home: Path) -> list[str]:
    """Return where a server is found, and with what, for people."""
    openai, mlflow = f"{address.url}/v1", f"{address.url}/mlflow/"
    others = f"For others        it listens on {address.listen}: mafunzo user list, mafunzo env --write-ca FILE"
    return [
        f"OpenAI's dialect  {openai}, with an endpoint's key: mafunzo endpoint keys NAME",
        f"The Azure SDK     {address.azure_url}, with the environment of: mafunzo env",
        f"MLflow            {mlflow}, with the key in it: mafunzo mlflow",
        *([] if address.is_private else [others]),
        f"Process           {address.pid}, home {home}. It ends with: mafunzo down",
    ]
