"""A tokeniser of twelve words, made by the library that reads it."""

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "play", "some", "jazz", "a", "##s", "[", "]", "pad"]
PAD, UNK, CLS, SEP = range(4)


def tokenizer_json(pad="[PAD]", padding=None):
    """Text of a tokenizer.json as BERT's are: lower case, pieces of words, [CLS] ... [SEP]."""
    words = [pad, *WORDS[1:]]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    tokenizer.add_special_tokens([pad, "[UNK]", "[CLS]", "[SEP]"])
    if padding is not None:
        tokenizer.enable_padding(pad_id=padding)
    return tokenizer.to_str()
