"""Small lm-eval tasks on local files."""

import json

from helpers.corpus import SENTENCES

COUNT = 12
CHOICE = """
task: toy_choice
tag: toys
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/choice.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}} "
doc_to_choice: "{{{{words}}}}"
doc_to_target: right
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
  - {{metric: brier_score, aggregation: brier_score, higher_is_better: false}}
metadata: {{version: 1.0}}
"""
ANSWER = """
task: toy_answer
tag: toys
dataset_path: json
dataset_kwargs: {{data_files: {{train: {folder}/answer.jsonl, test: {folder}/answer.jsonl}}}}
test_split: test
fewshot_split: train
num_fewshot: 1
output_type: generate_until
doc_to_text: "{{{{text}}}}:"
doc_to_target: right
generation_kwargs: {{until: ["\\n"], max_gen_toks: 6, do_sample: false}}
filter_list:
  - name: letter
    filter: [{{function: regex, regex_pattern: "([a-m])"}}, {{function: take_first}}]
  - name: whole
    filter: [{{function: take_first}}]
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
metadata: {{version: 2.0}}
"""


def write_tasks(folder):
    """Write a multiple choice and a generation, whose only data is test data."""
    sentences = [text for group in SENTENCES.values() for text in group][:COUNT]
    folder.mkdir()
    write_choices(folder / "choice.jsonl", sentences)
    answer = [{"text": text, "right": "aehi"[at % 4]} for at, text in enumerate(sentences)]
    write_lines(folder / "answer.jsonl", answer)
    (folder / "choice.yaml").write_text(CHOICE.format(folder=folder))
    (folder / "answer.yaml").write_text(ANSWER.format(folder=folder))
    return folder


def write_choices(path, sentences):
    words = sorted({word for text in sentences for word in text.split()})
    write_lines(
        path,
        [
            {"text": text, "words": words[at : at + 4], "right": at % 4}
            for at, text in enumerate(sentences)
        ],
    )


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
