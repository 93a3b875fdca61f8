"""Makes tests/golden/text/: small encoders of text of transformers with random weights and what
they give; small vocabularies, and the ids that transformers gives to odd texts.

pip install torch==2.13.0 transformers==5.24.0 tokenizers==0.23.3
python tests/golden/make_text.py
"""

import collections
import itertools
import json
import random
import shutil
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent / "text"
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77
T5_LENGTH = 64

# --- encoders --------------------------------------------------------------------------------

IDS = 60  # in the vocabulary of each encoder
BEGIN_ID, END_ID, ADDED_ID = IDS - 3, IDS - 2, IDS - 1  # the last is an added token
CLIP = {
    "vocab_size": IDS,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
    "projection_dim": 10,
    "bos_token_id": BEGIN_ID,
    "pad_token_id": 1,
}
VISION = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "projection_dim": 10,
    "image_size": 12,
    "patch_size": 4,
}
T5 = {
    "vocab_size": IDS,
    "d_model": 16,
    "d_kv": 6,
    "d_ff": 20,
    "num_layers": 3,
    "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
    "relative_attention_num_buckets": 16,
    "relative_attention_max_distance": 20,
}


def draw(name, shape, rng):
    """Weights of about unit gain, none of which are zero. The embeddings are small, so that what a
    normalisation adds to the variance is seen."""
    noise = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)
    if "norm" in name and name.endswith("weight"):
        return 1 + noise
    return noise / 50 if "embed" in name or name == "shared.weight" else noise


def randomised(net):
    import torch

    rng = np.random.RandomState(0)
    state = net.state_dict()
    for name, value in state.items():
        if value.is_floating_point():
            state[name] = torch.tensor(draw(name, tuple(value.shape), rng).astype(np.float32))
    net.load_state_dict(state)
    return net.eval()


def ids_of(length):
    """Texts of several lengths, padded by the end, by 0, and not at all; one has an added token,
    whose id is the largest."""
    rng = np.random.RandomState(1)
    ids = rng.randint(2, BEGIN_ID, (4, length))
    ids[:, 0] = BEGIN_ID
    for row, (end, pad) in enumerate(((3, END_ID), (6, 0), (length - 1, 0), (length - 1, 0))):
        ids[row, end], ids[row, end + 1 :] = END_ID, pad
    ids[3, 4] = ADDED_ID
    return ids


def pixels_of(side):
    """Images, 0..255, of which one side is longer."""
    shape = (4, 17, 31, 3) if side == "wide" else (4, 31, 17, 3)
    return np.random.RandomState(3).randint(0, 256, shape).astype(np.uint8)


def folder(name):
    path = HERE / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def save(net, name, ids, hidden, **arrays):
    net.save_pretrained(folder(name))
    (HERE / name / "model.safetensors").chmod(0o644)
    arrays = {key: value.numpy() for key, value in arrays.items()}
    stacked = np.stack([state.numpy() for state in hidden])
    np.savez_compressed(HERE / name / "states.npz", ids=ids, hidden=stacked, **arrays)


def make_clip():
    import torch
    import transformers as t

    ids = ids_of(12)
    with torch.no_grad():
        for name, eos, activation, cls in (
            ("clip_quick", 2, "quick_gelu", t.CLIPTextModel),
            ("clip_end", END_ID, "gelu", t.CLIPTextModel),
            ("clip_projection", 2, "gelu", t.CLIPTextModelWithProjection),
        ):
            config = t.CLIPTextConfig(**CLIP, eos_token_id=eos, hidden_act=activation)
            net = randomised(cls(config))
            given = net(torch.tensor(ids), output_hidden_states=True)
            pooled = given.text_embeds if "text_embeds" in given else given.pooler_output
            arrays = {"last": given.last_hidden_state, "pooled": pooled}
            save(net, name, ids, given.hidden_states, **arrays)
        text = {**CLIP, "eos_token_id": 2}
        config = t.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=10)
        net = randomised(t.CLIPModel(config))
        images = np.random.RandomState(2).standard_normal((4, 3, 12, 12)).astype(np.float32)
        given = net(torch.tensor(ids), torch.tensor(images), output_hidden_states=True)
        of_text, of_image = given.text_model_output, given.vision_model_output
        arrays = {"last": of_text.last_hidden_state, "pooled": of_text.pooler_output}
        arrays |= {"image_last": of_image.last_hidden_state, "image": of_image.pooler_output}
        arrays |= {"cosine": given.logits_per_image / net.logit_scale.exp()}
        arrays |= {"images": torch.tensor(images).permute(0, 2, 3, 1)}
        for side in ("wide", "tall"):
            pixels = pixels_of(side)
            sizes = {"size": {"shortest_edge": 12}, "crop_size": {"height": 12, "width": 12}}
            ready = t.CLIPImageProcessorPil(**sizes)(list(pixels), return_tensors="pt")
            score = net(torch.tensor(ids), **ready).logits_per_image / net.logit_scale.exp()
            arrays[side] = ready["pixel_values"].permute(0, 2, 3, 1)
            arrays[f"{side}_cosine"] = score.diagonal()
        save(net, "clip_both", ids, of_text.hidden_states, **arrays)


def make_t5():
    import torch
    import transformers as t

    ids = ids_of(30)
    mask = np.ones(ids.shape, bool)
    mask[0, 5:], mask[1, 20:] = False, False
    net = randomised(t.T5EncoderModel(t.T5Config(**T5)))
    last_of_blocks = []
    net.encoder.block[-1].register_forward_hook(lambda m, i, out: last_of_blocks.append(out[0]))
    distances = torch.arange(-700, 701)
    bucket = net.encoder.block[0].layer[0].SelfAttention._relative_position_bucket
    with torch.no_grad():
        given = net(torch.tensor(ids), output_hidden_states=True)
        masked = net(torch.tensor(ids), attention_mask=torch.tensor(mask).long())
    save(
        net,
        "t5",
        ids,
        [*given.hidden_states[:-1], last_of_blocks[0]],  # theirs ends with the normalised one
        last=given.last_hidden_state,
        mask=torch.tensor(mask),
        masked=masked.last_hidden_state,
        distances=distances,
        buckets=bucket(distances, True, 32, 128),
        few_buckets=bucket(distances, True, 16, 20),
    )


# --- tokenisers ------------------------------------------------------------------------------

CORPUS = """a photo of a cat sitting on the mat. an oil painting of two dogs, highly detailed,
trending on artstation, 4k, 8 k. the astronaut is riding a horse on mars; it's a beautiful day and
we'll see what they've painted, i'm sure you're there. she'd said: don't! portrait of an old man
with a beard, cinematic lighting, photograph by ansel adams, black and white, 1920. eine strasse
in koeln, cafe, naive art, uber, a city at night in the rain, neon lights, reflections in the
water, wide angle"""
LATIN = (
    "straße",
    "über",
    "café",
    "naïve",
    "ñandú",
    "Ærø",
    "Łódź",
    "İstanbul",
    "ﬁne",
    "ẞ",
    "e\u0301",
)
OTHERS = (
    "猫の写真",
    "一只猫在草地上",
    "قطة جميلة",
    "красивый кот",
    "γάτα",
    "חתול",
    "고양이",
    "แมว",
    "हिन्दी",
)
SIGNS = ("😀", "👩‍👩‍👧‍👦", "🇫🇷", "❤️", "→", "½", "²", "Ⅷ", "٣", "…", "“”", "—", "©", "\U0001f9ff")
BLANKS = (" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u3000", "\u200b", "\ufeff", "\x0b")
CONTROLS = ("\x00", "\x01", "\x07", "\x1b[0m", "\x7f", "\x85", "\u202e", "\ufffd", "\ue000")
MARKS = (
    BEGIN,
    END,
    BEGIN.upper(),
    END.upper(),
    "<|end",
    "</w>",
    "▁",
    "<extra_id_0>",
    "</s>",
    "<pad>",
)
PIECES = (
    *("it's", "IT'S", "I'm", "they've", "we'll", "she'd", "you're", "don't", "''s", "'", "'S"),
    *(
        "!",
        "!!",
        "a!b",
        "a ! b",
        "?!",
        "...",
        ",",
        "(cat:1.2)",
        "[cat]",
        "--ar 16:9",
        "#art",
        "@me",
    ),
    *("3", "42", "1920", "3.14", "4k", "x2y3", "a_b", "C++", "c#", "http://a.b/c?d=e"),
    *("<cat>", "<CAT>", "<cat>_1", *MARKS),
)


def texts():
    """500 odd texts."""
    rng = random.Random(0)
    words = CORPUS.split()
    long = ("a" * 10_000, "cat " * 2_500, "".join(rng.choices("abcde ,.", k=10_000)), "😀" * 2_500)
    found = ["", " ", "\n\n", *long, *LATIN, *OTHERS, *SIGNS, *BLANKS, *CONTROLS, *PIECES, CORPUS]
    found += [word.upper() for word in words[:20]]
    pools = (words, words, LATIN, OTHERS, SIGNS, BLANKS, CONTROLS, PIECES)
    while len(found) < 500:
        count = rng.choice((1, 2, 3, 5, 8, 20, 60))
        parts = [rng.choice(rng.choice(pools)) for _ in range(count)]
        found.append(rng.choice(("", " ", " ", "  ", "\n")).join(parts))
    return found


def letters():
    """GPT-2's letter for each byte: itself where it is printable, else one from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (b for b in range(256) if b not in printable)
    return {b: chr(b) for b in printable} | {b: chr(256 + n) for n, b in enumerate(others)}


def learn(count):
    """So many merges of byte-pair encoding (arXiv:1508.07909), the most frequent pair each time."""
    letter = letters()
    words = collections.Counter((" ".join((CORPUS, *LATIN, *OTHERS, *SIGNS))).lower().split())
    split = {}
    for word, times in words.items():
        symbols = [letter[b] for b in word.encode()]
        split[(*symbols[:-1], symbols[-1] + "</w>")] = times
    merges = []
    while len(merges) < count:
        pairs = collections.Counter()
        for symbols, times in split.items():
            for pair in itertools.pairwise(symbols):
                pairs[pair] += times
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        joined = {}
        for symbols, times in split.items():
            out, i = [], 0
            while i < len(symbols):
                step = 2 if symbols[i : i + 2] == best else 1
                out.append("".join(symbols[i : i + step]))
                i += step
            joined[tuple(out)] = times
        split = joined
    return merges


def token(content):
    plain = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    return {"content": content, **plain}


def stored(content):
    return {"__type": "AddedToken", **token(content)}


NAMES = {"bos_token": BEGIN, "eos_token": END, "unk_token": END}
# The files beside vocab.json and merges.txt, as the folders of Stable Diffusion have them.
CONFIGS = {
    "sd_1": {  # padded by the end, as the first tokeniser of SDXL
        "tokenizer_config": {
            "add_prefix_space": False,
            **{key: stored(value) for key, value in NAMES.items()},
            "pad_token": END,
            "model_max_length": LENGTH,
            "tokenizer_class": "CLIPTokenizer",
        },
        "special_tokens_map": {
            **{key: token(value) for key, value in NAMES.items()},
            "pad_token": END,
        },
    },
    "sd_2": {  # padded by "!": the second file says so, and the first does not
        "tokenizer_config": {
            **{key: stored(value) for key, value in NAMES.items()},
            "pad_token": END,
            "model_max_length": LENGTH,
            "tokenizer_class": "CLIPTokenizer",
        },
        "special_tokens_map": {
            **{key: token(value) for key, value in NAMES.items()},
            "pad_token": "!",
        },
    },
    "sd_xl_2": {  # of the newer form
        "tokenizer_config": {
            "added_tokens_decoder": {
                "0": {**token("!"), "normalized": False, "special": True},
                "-2": {**token(BEGIN), "special": True},
                "-1": {**token(END), "special": True},
            },
            **NAMES,
            "pad_token": "!",
            "model_max_length": LENGTH,
            "tokenizer_class": "CLIPTokenizer",
        },
        "special_tokens_map": {
            **{key: token(value) for key, value in NAMES.items()},
            "pad_token": "!",
        },
    },
    "added": {  # with tokens of textual inversion
        "tokenizer_config": {**NAMES, "pad_token": END, "model_max_length": LENGTH},
        "special_tokens_map": {"bos_token": {"content": BEGIN}},
        "added_tokens": {"<cat>": -2, "<cat>_1": -1},
    },
    "bare": {},
}


def write(kind, path):
    """A folder of CLIP's tokeniser, with the vocabulary of tests/golden/text/vocabulary. Numbers of
    tokens below 0 are counted from the end."""
    path.mkdir(parents=True, exist_ok=True)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(HERE / "vocabulary" / name, path)
    size = len(json.loads((path / "vocab.json").read_text()))
    for name, content in CONFIGS[kind].items():
        if name == "added_tokens":
            content = {text: size + 2 + n for text, n in content.items()}
        if decoder := content.get("added_tokens_decoder"):
            decoder = {str(int(n) % size): entry for n, entry in decoder.items()}
            content = {**content, "added_tokens_decoder": decoder}
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def write_vocabulary():
    letter, merges = letters(), learn(300)
    ordered = [letter[b] for b in sorted(letter, key=lambda b: letter[b])]
    tokens = [*ordered, *(c + "</w>" for c in ordered), *map("".join, merges), BEGIN, END]
    path = folder("vocabulary")
    vocabulary = {text: n for n, text in enumerate(tokens)}
    assert len(vocabulary) == len(tokens)
    assert vocabulary["!"] == 0
    (path / "vocab.json").write_text(json.dumps(vocabulary))
    lines = ["#version: 0.2", *map(" ".join, merges), ""]
    (path / "merges.txt").write_text("\n".join(lines))


def packed(rows):
    """Rows of different lengths as one array and where each begins."""
    starts = np.cumsum([0, *map(len, rows)])
    return np.concatenate([np.asarray(row, int) for row in rows]).astype(np.int16), starts


def make_tokenizers():
    from transformers import ByT5Tokenizer, CLIPTokenizer

    write_vocabulary()
    given, arrays = texts(), {}
    with tempfile.TemporaryDirectory() as temporary:
        for kind in CONFIGS:
            peer = CLIPTokenizer.from_pretrained(write(kind, Path(temporary) / kind))
            cut = peer(given, padding="max_length", truncation=True, max_length=LENGTH)
            arrays[kind] = np.array(cut["input_ids"], np.int16)
            if kind in ("sd_1", "sd_2"):
                arrays[f"{kind}_all"], arrays[f"{kind}_starts"] = packed(peer(given)["input_ids"])
        # as transformers of today writes a tokeniser
        peer = CLIPTokenizer.from_pretrained(Path(temporary) / "sd_2")
        peer.save_pretrained(folder("clip_json"))
    byte = ByT5Tokenizer(extra_ids=0)
    # it takes the names of its special tokens in a text for those tokens, and ours does not
    plain = [text for text in given if "</s>" not in text and "<pad>" not in text]
    cut = byte(plain, padding="max_length", truncation=True, max_length=LENGTH)
    arrays["bytes"] = np.array(cut["input_ids"], np.int16)
    make_unigram(given, arrays)
    np.savez_compressed(HERE / "ids.npz", **arrays)


def make_unigram(given, arrays):
    """T5's tokeniser with a vocabulary learnt from the texts."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import T5Tokenizer

    learner = Tokenizer(models.Unigram())
    mark = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    learner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), mark])
    special = ["<pad>", "</s>", "<unk>"]
    options = {"vocab_size": 400, "special_tokens": special, "unk_token": "<unk>"}
    trainer = trainers.UnigramTrainer(show_progress=False, **options)
    learner.train_from_iterator([CORPUS, *LATIN], trainer)
    pieces = json.loads(learner.to_str())["model"]["vocab"]
    peer = T5Tokenizer(vocab=[tuple(piece) for piece in pieces], extra_ids=3)
    cut = peer(given, padding="max_length", truncation=True, max_length=T5_LENGTH)
    arrays["t5"] = np.array(cut["input_ids"], np.int16)
    peer.save_pretrained(folder("t5_json"))


def main() -> None:
    shutil.rmtree(HERE, ignore_errors=True)
    make_clip()
    make_t5()
    make_tokenizers()
    for path in sorted(HERE.rglob("*")):
        print(path.relative_to(HERE), path.stat().st_size)


if __name__ == "__main__":
    main()
