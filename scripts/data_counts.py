"""What the data adapters make of files: rows, what is taken out and why, and what overlaps with evaluation sets.

    python scripts/data_counts.py gsm8k=<train.jsonl> dapo_math_17k=<train.parquet> --against math500=<test.jsonl>

Names are those of `configs/data/`. Nothing is tokenized, so long prompts count.
"""

import argparse
import logging
import sys

from effopd.config.build import build_config
from effopd.config.register import Configs, open_configs
from effopd.config.source_schema import SourceConfig
from effopd.data.contamination import EvaluationIndex
from effopd.data.questions import read_questions
from effopd.data.report import ReadReport
from effopd.markdown import markdown_table


def source_of(configs: Configs, argument: str) -> SourceConfig:
    """Return the settings of `name=file`."""
    name, _, path = argument.partition("=")
    tree = configs.compose("train", [f"data={name}", f"data.path={path}"])
    return build_config(tree, required=()).data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="NAME=FILE", help="training sets")
    parser.add_argument("--against", nargs="*", default=[], metavar="NAME=FILE", help="evaluation sets")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    with open_configs() as configs:
        training = {argument: source_of(configs, argument) for argument in arguments.sets}
        evaluation = {argument.partition("=")[0]: source_of(configs, argument) for argument in arguments.against}

    index = EvaluationIndex(
        {
            name: [
                question.text for _, question in read_questions(source, ReadReport(section="data", path=source.path))
            ]
            for name, source in evaluation.items()
        }
    )
    rows = []
    for argument, source in training.items():
        report = ReadReport(section="data", path=source.path)
        matches = []
        num_questions = 0
        for prompt_id, question in read_questions(source, report):
            num_questions += 1
            match = index.match(prompt_id, question.text)
            if match is not None:
                matches.append(match)
        shown = [f"{one.equal} + {one.shared_run} ({one.wording})" for one in index.overlaps(matches).values()]
        counts = (report.num_rows, report.num_duplicates, report.num_bad_rows, report.num_without_answer, num_questions)
        rows.append([argument.partition("=")[0], *(f"{count:,}" for count in counts), *shown])
    headings = ["set", "rows", "duplicates", "bad rows", "empty answers", "questions"]
    sys.stdout.write(markdown_table([*headings, *(f"in {name}: equal + near (wording)" for name in evaluation)], rows))
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
