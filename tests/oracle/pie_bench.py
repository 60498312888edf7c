"""PIE-Bench's evaluation of a made-up list of 20 edits, written from its description.

    oracle tests/oracle/pie_bench.py    # tests/data/pie_bench: the list, and what is measured

The pictures are drawn by a formula that `tests/it/eval.rs` has, too: only the list, the results of
JPEG and the measures are files. PNG files have the names that end in .jpg: the programs that read
them go by content. Needs torchmetrics beside `requirements.txt`.
"""

import csv
import io
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure
from torchmetrics.regression import MeanSquaredError

OUT = Path(__file__).resolve().parents[1] / "data" / "pie_bench"
SIDE = 512
FOLDERS = [
    "0_random_140", "1_change_object_80", "2_add_object_80", "3_delete_object_80",
    "4_change_attribute_content_40", "5_change_attribute_pose_40", "6_change_attribute_color_40",
    "7_change_attribute_material_40", "8_change_background_80", "9_change_style_80",
]
# (start, length) pairs: none, all, some, one that passes the end, one of length 0.
RUNS = [[], [0, SIDE * SIDE], [513, 40000], [200000, 10**9, 77, 0], [SIDE * 100 + 5, 300] * 1]


def drawn(seed, width, height):
    """Smooth shades with a pattern that depends on the seed: uint8 (height, width, 3)."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    planes = [
        (x * (3 + c + seed % 5) // 7 + y * (2 + c) // 5 + (x * y >> 9) * (1 + seed % 3) + 40 * seed) % 256
        for c in range(3)
    ]
    return np.stack(planes, axis=2).astype(np.uint8)


def entries():
    """Two of every type; both files of pictures of each."""
    for index in range(20):
        kind = index % 10
        path = f"{FOLDERS[kind]}/" + ("" if kind == 0 else "1_artificial/1_animal/")
        runs = RUNS[index % len(RUNS)]
        if index >= 10:
            rows = range(60 + index, 400, 2)
            runs = [number for row in rows for number in (SIDE * row + 90 + index, 130)]
        yield f"{index:012}", {
            "image_path": f"{path}{index:012}.jpg",
            "original_prompt": f"a [small] cat {index} beside a tree",
            "editing_prompt": f"a [large[ dog ]{index} beside a tree ",
            "editing_instruction": "",
            "editing_type_id": str(kind),
            "blended_word": "cat dog" if index % 2 else "",
            "mask": runs,
        }


def mask_of(runs):
    mask = np.zeros(SIDE * SIDE)
    for start, length in zip(runs[::2], runs[1::2]):
        mask[start : start + min(length, SIDE * SIDE - start)] = 1
    mask = mask.reshape(SIDE, SIDE)
    mask[0], mask[-1], mask[:, 0], mask[:, -1] = 1, 1, 1, 1
    return mask


def source_of(index):
    return drawn(index, SIDE, SIDE)


def result_of(index):
    """What a method has made: the source with other shades; some are strips of four panels."""
    source = source_of(index).astype(np.int64)
    changed = (source * (200 + index) // 256 + 9).astype(np.uint8)
    if index == 7:
        changed = source.astype(np.uint8)  # equal: an infinite ratio
    if index % 3 == 0:
        return np.concatenate([drawn(index + 50, 3 * SIDE, SIDE), changed], axis=1)
    return changed


def tensor(picture, mask):
    x = torch.from_numpy(picture.astype(np.float32) / 255 * mask[:, :, None].astype(np.float32))
    return x.permute(2, 0, 1)


def measured(source, result, mask, protocol):
    if protocol == "pie-2023":
        file = io.BytesIO()
        Image.fromarray(result).save(file, "JPEG")
        result = np.asarray(Image.open(file))
    if (1 - mask).sum() == 0:
        return ["nan"] * 3
    a, b = tensor(source, 1 - mask), tensor(result, 1 - mask)
    ssim = StructuralSimilarityIndexMeasure(data_range=1.0, return_full_image=True)
    whole, full = ssim(b[None].double(), a[None].double())
    if protocol == "pie-2023":
        whole = full[..., 5:-5, 5:-5].mean()
    return [
        PeakSignalNoiseRatio(data_range=1.0)(b, a).item(),
        MeanSquaredError()(b.contiguous(), a.contiguous()).item(),
        whole.item(),
    ]


def main():
    OUT.mkdir(exist_ok=True)
    mapping = dict(entries())
    (OUT / "mapping_file.json").write_text(json.dumps(mapping) + "\n")
    names = ["psnr_unedit_part", "mse_unedit_part", "ssim_unedit_part"]
    for protocol in ("pie-2023", "pie-now"):
        with open(OUT / f"{protocol}.csv", "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["file_id", *(f"other|{name}" for name in names)])
            for index, (key, entry) in enumerate(mapping.items()):
                mask = mask_of(entry["mask"])
                result = result_of(index)
                height, width, _ = result.shape
                if height != width:
                    result = result[height - SIDE : height, width - SIDE : width]
                rows.writerow([key, *measured(source_of(index), result, mask, protocol)])
    masks = {key: int(mask_of(entry["mask"]).sum()) for key, entry in mapping.items()}
    prompts = {
        key: [entry[name].replace("[", "").replace("]", "") for name in ("original_prompt", "editing_prompt")]
        for key, entry in mapping.items()
    }
    (OUT / "read.json").write_text(json.dumps({"masks": masks, "prompts": prompts}) + "\n")


if __name__ == "__main__":
    main()
