"""Reading an untrusted vocab.txt of BERT: one token a line, without anything that is programmed."""

from pathlib import Path
from typing import Any

from cupola.errors import CupolaError, InputError
from cupola.files.opening import read_settings, read_text
from cupola.files.tokenizer import GuardedTokenizer, read_tokenizer

LARGEST = 16 * 2**20  # bytes; that of the multilingual model has 1 MB
NEEDED = ("[UNK]", "[CLS]", "[SEP]", "[PAD]")


def read_bert_tokenizer(path: Path, error: type[CupolaError] = InputError) -> GuardedTokenizer:
    """The tokenizer of a tokenizer.json or a vocab.txt; `error` where it is not one of BERT's.

    Words are put in lower case as tokenizer_config.json beside vocab.txt says, and without it
    unless the vocabulary has words with capitals.
    """
    if path.suffix == ".json":
        found = read_tokenizer(path, error)
        words = found.get_vocab()
    else:
        words = _vocabulary(path, error)
        found = _wordpiece(words, _lowers(path, words, error))
    if missing := [token for token in NEEDED if token not in words]:
        raise error(f"{path}: not a tokenizer of BERT, it has no token {missing[0]}")
    return found


def _vocabulary(path: Path, error: type[CupolaError]) -> dict[str, int]:
    """The tokens with their numbers; later lines of the same token count."""
    lines = read_text(path, LARGEST, error).split("\n")
    if lines[-1] == "":
        lines.pop()
    return {line.rstrip("\r"): number for number, line in enumerate(lines)}


def _lowers(path: Path, words: dict[str, int], error: type[CupolaError]) -> bool:
    beside = path.with_name("tokenizer_config.json")
    stated = read_settings(beside, error) if beside.is_file() else {}
    if isinstance(stated, dict) and isinstance(stated.get("do_lower_case"), bool):
        return bool(stated["do_lower_case"])
    return not any(word != word.lower() for word in words if not word.startswith("["))


def _wordpiece(words: dict[str, int], lowercase: bool) -> GuardedTokenizer:
    from tokenizers import Tokenizer
    from tokenizers.decoders import WordPiece as Decoder
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing

    made: Any = Tokenizer(WordPiece(words, unk_token="[UNK]", max_input_chars_per_word=100))
    made.normalizer = BertNormalizer(lowercase=lowercase)
    made.pre_tokenizer = BertPreTokenizer()
    made.decoder = Decoder()
    special = [token for token in (*NEEDED, "[MASK]") if token in words]
    made.add_special_tokens(special)
    if "[CLS]" in words and "[SEP]" in words:
        ends = [("[CLS]", words["[CLS]"]), ("[SEP]", words["[SEP]"])]
        made.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return GuardedTokenizer(made)
