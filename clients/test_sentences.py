"""sentence-transformers and peft: folders of theirs with `.bin` files."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from test_transformers import bert, gpt2, same_state
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from twins import poison_torch

IDS = torch.arange(12).reshape(2, 6)
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a model that opens no door to its file".split()


def sentence_model(folder):
    """Make a model of a tiny BERT, a tokenizer of a dozen words, and a dense layer."""
    from sentence_transformers.base.modules import Dense, Transformer

    plain = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    ).save_pretrained(folder / "bert")  # fmt: skip
    bert().save_pretrained(folder / "bert")
    words = Transformer(str(folder / "bert"))
    torch.manual_seed(11)
    dense = Dense(16, 8)
    return SentenceTransformer(modules=[words, Pooling(16), dense], device="cpu")


@pytest.mark.case("sentence-transformers", "BERT, pooling and dense layer, `.bin`")
def test_sentence_transformer(case, tmp_path):
    """Saved by the library, and its weights then written as older releases did."""
    from safetensors.torch import load_file

    made = sentence_model(tmp_path)
    folder = tmp_path / "whole"
    made.save(str(folder))
    files = []
    for weights in sorted(folder.rglob("*.safetensors")):
        files.append(weights.with_name("pytorch_model.bin"))
        torch.save(load_file(weights), files[-1])
        weights.unlink()
    assert len(files) == 2

    def load():
        return SentenceTransformer(str(folder), device="cpu")

    again = case.loads(load, files=2)
    texts = ["a model", "that opens no door"]
    left, right = made.encode(texts), again.encode(texts)
    assert left.shape == (2, 8)
    assert (left == right).all()
    for file in files:
        kept = file.read_bytes()
        poison_torch(file)
        case.refuses(load, runs=False)
        file.write_bytes(kept)
    case.note = "a twin of each of the two files"


@pytest.mark.case("peft", "LoRA on GPT-2, `adapter_model.bin`")
def test_lora(case, tmp_path):
    torch.manual_seed(12)
    config = LoraConfig(
        r=2, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False
    )
    made = get_peft_model(gpt2(), config).eval()
    made.save_pretrained(tmp_path, safe_serialization=False)
    file = tmp_path / "adapter_model.bin"

    def load():
        return PeftModel.from_pretrained(gpt2(), tmp_path).eval()

    again = case.loads(load)
    same_state(made.state_dict(), again.state_dict())
    assert torch.equal(made(IDS)[0], again(IDS)[0])
    assert not torch.equal(made(IDS)[0], gpt2()(IDS)[0])
    poison_torch(file)
    case.refuses(load, runs=False)
