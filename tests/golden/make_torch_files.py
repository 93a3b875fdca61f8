"""Makes torch_zip.pth and torch_sequence.pth: the same tensors in both layouts of torch.save.

pip install torch==2.13.0
python tests/golden/make_torch_files.py
"""

from collections import OrderedDict
from pathlib import Path


def main() -> None:
    import torch

    counting = torch.arange(24, dtype=torch.float32)
    kinds = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8")
    content = {
        "kinds": {k: torch.arange(5).to(getattr(torch, k)) for k in (*kinds, "uint8", "bool")},
        "whole": counting.reshape(2, 3, 4),
        "transposed": counting.reshape(2, 3, 4).permute(2, 0, 1),
        "part": counting[5:17:3],
        "repeated": counting[:3].expand(2, 3),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "module": torch.nn.Linear(1, 1).state_dict(),
        "rest": [1, 2.5, "text", None, True, (3,), OrderedDict(a=torch.Size([1, 2]))],
    }
    content["module"]["weight"].fill_(3.0)
    content["module"]["bias"].fill_(4.0)
    for name, new in (("zip", True), ("sequence", False)):
        path = Path(__file__).parent / f"torch_{name}.pth"
        torch.save(content, path, _use_new_zipfile_serialization=new)


if __name__ == "__main__":
    main()
