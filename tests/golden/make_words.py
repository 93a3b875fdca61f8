"""Writes tests/golden/words: files of textual inversion, and what diffusers makes of prompts.

    python tests/golden/make_words.py

It needs torch, diffusers 0.42 and transformers, and the pipelines of make_pipelines.py.
"""

import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
PROMPTS = ["a photo of <cat-toy> and a dog", "<Cat-Toy>, a gnome", "no new word", "two lines"]
WORDS = {  # rows by the name of the word; "lines" is plain
    "sd15": {"<cat-toy>": 1, "lines": 3},
    "sdxl": {"gnome": 2},
}


def normal(name, shape):
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    return 0.1 * rng.standard_normal(shape).astype(np.float32)


def encoders(pipe):
    found = [(pipe.text_encoder, pipe.tokenizer)]
    if hasattr(pipe, "text_encoder_2"):
        found.append((pipe.text_encoder_2, pipe.tokenizer_2))
    return found


def main() -> None:
    import diffusers
    import torch
    from safetensors.numpy import save_file

    folder = HERE / "words"
    folder.mkdir(exist_ok=True)
    outputs = {}
    for base, words in WORDS.items():
        pipe = diffusers.DiffusionPipeline.from_pretrained(
            HERE / "pipelines" / base, torch_dtype=torch.float32
        )
        for word, count in words.items():
            widths = [e.get_input_embeddings().weight.shape[1] for e, _ in encoders(pipe)]
            rows = [normal(f"{base}{word}{i}", (count, w)) for i, w in enumerate(widths)]
            if base == "sd15":
                name = word.strip("<>")
                given = {word: rows[0] if count > 1 else rows[0][0]}
                save_file(given, folder / f"{name}.safetensors")
                if count == 1:
                    torch.save({word: torch.tensor(rows[0][0])}, folder / f"{name}.bin")
                else:
                    save_file({"emb_params": rows[0]}, folder / f"{name}_1111.safetensors")
            else:
                save_file(
                    dict(zip(("clip_l", "clip_g"), rows, strict=True)),
                    folder / f"{word}.safetensors",
                )
            for (encoder, tokenizer), array in zip(encoders(pipe), rows, strict=True):
                pipe.load_textual_inversion(
                    {word: torch.tensor(array)},
                    token=word,
                    text_encoder=encoder,
                    tokenizer=tokenizer,
                )
        context = []
        for encoder, tokenizer in encoders(pipe):
            prompts = [pipe.maybe_convert_prompt(p, tokenizer) for p in PROMPTS]
            ids = tokenizer(prompts, padding="max_length", max_length=77, return_tensors="pt")
            with torch.no_grad():
                out = encoder(ids.input_ids, output_hidden_states=True)
            context.append(
                (out.hidden_states[-2] if base == "sdxl" else out.last_hidden_state).numpy()
            )
            outputs[f"{base}_ids_{len(context)}"] = ids.input_ids.numpy().astype(np.int32)
        outputs[base] = np.concatenate(context, axis=-1)[:, :16]
    np.savez_compressed(folder / "outputs.npz", **outputs)


if __name__ == "__main__":
    main()
