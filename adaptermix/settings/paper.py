"""The paper's choices: model, languages, groups and target modules."""

PAPER_MODEL = "meta-llama/Meta-Llama-3-8B-Instruct"
ATTENTION_AND_MLP = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# The paper's groups: languages with task data, languages aligned to English, and others.
PAPER_GROUPS: dict[str, tuple[str, ...]] = {
    "supervised": ("ar", "en", "es", "ru", "zh"),
    "transfer-aligned": ("cy", "ja", "jv", "sw", "tl"),
    "transfer-other": ("af", "az", "de", "el", "fr", "hi", "is", "th", "tr", "ur"),
}
# The 35 languages of its initial analysis (section 2, appendix C), and those that NLLB (2022)
# defines as low-resource: fewer than 1M pairs of public bitext, by the counts in its code
# (fairseq, examples/nllb/modeling/evaluation/train_example_count/flores200_public.py).
PAPER_LANGS = (
    *(lang for group in PAPER_GROUPS.values() for lang in group),
    *"cs he uk am bn it hu hy id kn ka mn km ko lv".split(),
)
LOW_RESOURCE = ("am", "az", "cy", "hy", "jv", "ka", "km", "kn", "mn", "ur")
