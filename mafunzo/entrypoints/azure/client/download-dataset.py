"""Write a data set's splits as jsonl files: python download-dataset.py --dataset NAME --download_dir FOLDER [...].

It writes the first --dataset_split_pc percent of each split to FOLDER/<split>.jsonl, from Hugging Face's hub or from the
folder that `mafunzo data mirror` named.
"""

import argparse
import sys

from mafunzo import Workspace
from mafunzo.errors import MafunzoError

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument(
    "--dataset", default="HuggingFaceH4/ultrachat_200k", help="its name on the hub, or in the catalogue"
)
parser.add_argument("--download_dir", required=True, help="the folder to write; files of the same names are replaced")
parser.add_argument("--dataset_split_pc", type=float, default=100.0, help="how many percent of each split")
args = parser.parse_args()

try:
    with Workspace() as workspace:
        files = workspace.data.get(args.dataset, to=args.download_dir, percent=args.dataset_split_pc, overwrite=True)
except MafunzoError as error:
    sys.stderr.write(f"error: {error}\n")
    sys.exit(error.exit_code)
for file in files.values():
    sys.stdout.write(f"{file}\n")
