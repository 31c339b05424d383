"""Each model family, separated over real processes, against the reference implementations: synthetic checkpoints, prompts
shorter and longer than every window, greedy tokens as far as the reference is sure of them."""
import json
import struct
import subprocess

import pytest

from baton.v1 import inference_pb2 as pb
from fleet import ROOT
from messages import Answer, chat, exactly, failure_of, greedy, tokens
from process import BIN_DIR

GOLDEN = ROOT / "tests" / "data" / "golden"
# Directory in tests/data/golden -> seed of its weights.
MODELS = {"gemma-tiny": 101, "gemma2-tiny": 202, "recurrentgemma-tiny": 304}
# float32 sums in another order may decide closer calls the other way.
MARGIN = 2e-3
LENGTHS = [1, 2, 5, 15, 16, 17, 33, 64, 150]


def read_golden(name):
    """Tensor name -> flat tuple, of the I32 and F32 tensors."""
    data = (GOLDEN / f"{name}.golden.safetensors").read_bytes()
    header_bytes, = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + header_bytes])
    tensors = {}
    for tensor, entry in header.items():
        if tensor == "__metadata__" or not tensor.endswith((".tokens", ".greedy", ".greedy_margin")):
            continue
        begin, end = entry["data_offsets"]
        kind = {"I32": "i", "F32": "f"}[entry["dtype"]]
        tensors[tensor] = struct.unpack_from(f"<{(end - begin) // 4}{kind}", data, 8 + header_bytes + begin)
    return tensors


@pytest.fixture(scope="module")
def fleet(launch, tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for name, seed in MODELS.items():
        subprocess.run([BIN_DIR / "baton", "synth", "--config", GOLDEN / name / "config.json", "--seed", str(seed),
                        "--dtype", "f32", "--out", root / name], check=True, capture_output=True, timeout=60)
    exact = ["--weights", "f32"]
    # Chunks that no length is a multiple of, and several for the longer prompts.
    return launch(models=[str(root / name) for name in MODELS], prefill_flags=[*exact, "--chunk-tokens", "7"],
                  decode_flags=exact)


@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens(fleet, name):
    golden = read_golden(name)
    streams = [fleet.stream(tokens(golden[f"p{length}.tokens"], name, sampling=greedy(), stopping=exactly(48)))
               for length in LENGTHS]
    compared = 0
    for length, stream in zip(LENGTHS, streams):
        expected = list(golden[f"p{length}.greedy"])
        margins = golden[f"p{length}.greedy_margin"]
        sure = next((i for i, margin in enumerate(margins) if margin < MARGIN), len(expected))
        ids = Answer(stream).ids
        assert len(ids) == 48
        assert ids[:sure] == expected[:sure], f"prompt of {length} tokens"
        compared += sure
    assert compared > 350


def test_without_a_tokenizer_text_is_refused_clearly(fleet):
    failure = failure_of(lambda: fleet.generate(chat("Hi", "gemma-tiny")))
    assert failure.code.name == "FAILED_PRECONDITION"
    assert "token ids" in failure.message


def test_families_are_listed(fleet):
    cards = fleet.inference.ListModels(pb.ListModelsRequest()).models
    assert {card.name: (card.family, card.compute, card.weights) for card in cards} == {
        "gemma-tiny": ("gemma", "f32", "f32"), "gemma2-tiny": ("gemma2", "f32", "f32"),
        "recurrentgemma-tiny": ("recurrent_gemma", "f32", "f32")}


def test_leaves_nothing_behind(fleet):
    fleet.wait_idle()
