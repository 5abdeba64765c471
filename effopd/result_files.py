"""What an evaluation leaves: `eval.json` with the numbers, `responses.parquet` with every response, a table for people.

Each file is complete or absent. The responses are written first, so where there is an `eval.json` its responses are there.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from effopd.durable import replace_file
from effopd.jsonl import to_plain
from effopd.markdown import markdown_table
from effopd.responses import SetInput
from effopd.results import Estimate, EvalResult

RESULT_NAME = "eval.json"
RESPONSES_NAME = "responses.parquet"

_SCHEMA = pa.schema(
    {
        "set": pa.string(),
        "prompt_id": pa.string(),
        "sample_index": pa.int64(),
        "prompt": pa.string(),
        "response": pa.string(),
        "num_tokens": pa.int64(),  # of the response
        "finish_reason": pa.string(),
        "reward": pa.float64(),
        "answer": pa.string(),  # extracted and normalised; null where there is none
        "expected_answer": pa.string(),
        "seed": pa.int64(),
        "reverse_kl": pa.float64(),  # summed over the response, nats; null without a teacher
    }
)


def write_results(
    folder: Path,
    manifest: Mapping[str, object],
    sets: Mapping[str, SetInput],
    results: Mapping[str, EvalResult],
) -> None:
    """Write both files. `manifest` says what was evaluated with what, and stands at the top of `eval.json`."""
    tables = [_table(name, judged) for name, judged in sets.items()]
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables(tables), buffer)
    replace_file(folder / RESPONSES_NAME, buffer.getvalue().to_pybytes())
    content = to_plain({**manifest, "responses": RESPONSES_NAME, "sets": results})
    replace_file(folder / RESULT_NAME, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def results_table(results: Mapping[str, EvalResult]) -> str:
    """Return one row per set in Markdown. k is the number of samples per prompt; smaller ones are in `eval.json`."""
    headings = ["set", "prompts", "k", "score (avg@k)", "pass@k", "maj@k", "tokens", "truncated", "KL/token to teacher"]
    return markdown_table(headings, [_row(name, result) for name, result in results.items()])


def _row(name: str, result: EvalResult) -> list[str]:
    k = result.samples_per_prompt
    return [
        name,
        f"{result.num_prompts:,}",
        "1, greedy" if result.is_greedy else str(k),
        _percent(result.avg_at_k),
        _percent(result.pass_at_k[k]),
        "none" if result.maj_at_k is None else _percent(result.maj_at_k[k]),
        f"{result.mean_response_len.value:,.1f}",
        f"{result.truncation_rate.value:.1%}",
        "none" if result.reverse_kl_per_token is None else _shown(result.reverse_kl_per_token, "{:.4f}"),
    ]


def _percent(estimate: Estimate) -> str:
    return _shown(estimate, "{:.1%}")


def _shown(estimate: Estimate, form: str) -> str:
    if estimate.interval is None:
        return form.format(estimate.value)
    low, high = (form.format(bound).rstrip("%") for bound in estimate.interval)
    return f"{form.format(estimate.value)} [{low}, {high}]"


def _table(name: str, judged: SetInput) -> pa.Table:
    prompts = {prompt.prompt_id: prompt for prompt in judged.request.prompts}
    rows = [
        {
            "set": name,
            "prompt_id": rollout.prompt_id,
            "sample_index": rollout.sample_index,
            "prompt": prompts[rollout.prompt_id].text,
            "response": rollout.text,
            "num_tokens": rollout.response_len,
            "finish_reason": rollout.finish_reason.value,
            "reward": judged.rewards[index],
            "answer": None if judged.answers is None else judged.answers[index],
            "expected_answer": prompts[rollout.prompt_id].answer,
            "seed": rollout.seed,
            "reverse_kl": None if judged.reverse_kl is None else judged.reverse_kl[index],
        }
        for index, rollout in enumerate(judged.rollouts)
    ]
    return pa.Table.from_pylist(rows, _SCHEMA)
