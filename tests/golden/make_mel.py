"""Writes mel_librosa.npz: spectrograms of librosa, which the tests do not need.

    python tests/golden/make_mel.py

Made with librosa 0.11.0, in float64.
"""

import json
from pathlib import Path

import librosa
import numpy as np

CASES = {  # rate, window, hop, mels, low, high, scale, norm, power
    "vocoder": (22_050, 1024, 256, 80, 0.0, 8000.0, "slaney", "slaney", 1.0),
    "htk": (16_000, 400, 160, 23, 64.0, 8000.0, "htk", "none", 2.0),
    "mixed": (8000, 256, 64, 24, 0.0, 4000.0, "htk", "slaney", 1.0),
}


def sound(n=4000):
    """A sweep, a click and noise, in two channels."""
    i = np.arange(n)
    random = np.random.default_rng(0)
    sweep = 0.5 * np.sin(2 * np.pi * (0.01 * i + 2e-5 * i**2))
    noise = 0.05 * random.normal(size=n) * (i > n // 2)
    return np.stack([sweep, noise + (i == 1000)], axis=1).astype(np.float32)


def main():
    found = {"sound": sound(), "cases": np.array(json.dumps(CASES))}
    for name, (rate, window, hop, mels, low, high, scale, norm, power) in CASES.items():
        options = {"fmin": low, "fmax": high, "htk": scale == "htk"}
        options["norm"] = None if norm == "none" else norm
        found[f"{name}_mel"] = librosa.feature.melspectrogram(
            y=found["sound"].T.astype(np.float64),
            sr=rate,
            n_fft=window,
            hop_length=hop,
            n_mels=mels,
            power=power,
            pad_mode="constant",
            **options,
        )
        found[f"{name}_filters"] = librosa.filters.mel(
            sr=rate, n_fft=window, n_mels=mels, dtype=np.float64, **options
        ).sum(axis=1)
    np.savez_compressed(Path(__file__).parent / "mel_librosa.npz", **found)


if __name__ == "__main__":
    main()
