"""A pipeline of one's own commands with Azure's own SDK: `mafunzo run examples/azure_pipeline.py`, or without it on Azure.

Two components work on a file of conversations: one counts the words of each speaker, the other draws a table of what several
counts found. The result is registered as data, and downloaded.
"""

from pathlib import Path

from azure.ai.ml import Input, MLClient, Output, command
from azure.ai.ml.dsl import pipeline
from azure.ai.ml.entities import Environment
from azure.identity import DefaultAzureCredential

ROWS = Path(__file__).parent / "conversations.jsonl"
COUNT = """
import collections, json, sys
source, role, target = sys.argv[1:]
words = collections.Counter()
for line in open(source, encoding="utf-8"):
    for message in json.loads(line)["messages"]:
        if message["role"] == role:
            words.update(message["content"].lower().split())
with open(target, "w", encoding="utf-8") as out:
    json.dump({"role": role, "words": sum(words.values()), "most": words.most_common(3)}, out)
print(role, "said", sum(words.values()), "words")
"""
TABLE = """
import json, sys
*sources, target = sys.argv[1:]
rows = [json.load(open(source, encoding="utf-8")) for source in sources]
with open(target, "w", encoding="utf-8") as out:
    for row in rows:
        out.write(f"{row['role']:<10} {row['words']:>6}  {', '.join(word for word, _ in row['most'])}\\n")
"""


def main(folder: str = "word_count") -> None:
    """Write the code to `folder`, run the pipeline, and show the table."""
    client = MLClient.from_config(DefaultAzureCredential())
    code = Path(folder)
    code.mkdir(exist_ok=True)
    (code / "count.py").write_text(COUNT)
    (code / "table.py").write_text(TABLE)
    environment = Environment(name="plain-python", image="mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04")

    count = command(
        name="count_words",
        code=str(code),
        command="python count.py ${{inputs.rows}} ${{inputs.role}} ${{outputs.counted}}",
        inputs={"rows": Input(type="uri_file"), "role": Input(type="string")},
        outputs={"counted": Output(type="uri_file")},
        environment=environment,
    )
    table = command(
        name="draw_table",
        code=str(code),
        command="python table.py ${{inputs.first}} ${{inputs.second}} ${{outputs.table}}",
        inputs={"first": Input(type="uri_file"), "second": Input(type="uri_file")},
        outputs={"table": Output(type="uri_file")},
        environment=environment,
    )

    @pipeline(name="word_count", default_compute="serverless", experiment_name="words")
    def word_count(rows):
        user = count(rows=rows, role="user")
        assistant = count(rows=rows, role="assistant")
        drawn = table(first=user.outputs.counted, second=assistant.outputs.counted)
        return {"table": drawn.outputs.table}

    asked = word_count(Input(type="uri_file", path=str(ROWS)))
    asked.outputs.table = Output(type="uri_file", name="word-table")
    job = client.jobs.create_or_update(asked)
    client.jobs.stream(job.name)
    client.jobs.download(job.name, output_name="table", download_path=folder)
    (found,) = [path for path in (code / "named-outputs" / "table").rglob("*") if path.is_file()]
    print(found.read_text())
    print("Registered:", client.data.get("word-table", label="latest").id)


if __name__ == "__main__":
    main()
