"""The examples, done as their READMEs say: trained, built, served by the real Triton, asked."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import oracle
import pytest
from click.testing import CliRunner
from kept_builds import FOLDER, builder
from labelled import DATA, expert_logits, needs
from tokenizers import Tokenizer

from cascade_builder.cli import main as builder_commands
from cascade_client import CascadeClient
from cascade_client.cli import main as client_commands
from cascade_router import Policy
from cascade_router.errors import RequestError
from cascade_router.serve import Server, free_ports

ROOT = Path(__file__).parents[2]

TOO_CLOSE = 1e-4
"""A score this near to its threshold may fall either way: engines round by batch size."""

CLINC = DATA / "clinc150" / "data_full.json"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Copies of the examples, trained (MiniLM's head on few texts) and built side by side."""
    root = tmp_path_factory.mktemp("examples")
    training = {"digits": []}
    if CLINC.exists():
        training["intents"] = [str(CLINC), "--per-intent", "15", "--epochs", "4"]
    for name, options in training.items():
        folder = root / name
        folder.mkdir()
        for file in (ROOT / "examples" / name).glob("*.[pt][yo]*"):
            shutil.copy(file, folder)
        command = [sys.executable, "train.py", *options]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        run("build", folder / "cascade.toml", "--repository", root / "models")
    return root


@pytest.fixture(scope="module")
def server(place):
    with Server(
        repository=place / "models", ports=free_ports(), log=place / "server.log"
    ) as running:
        yield running


@pytest.fixture(scope="module")
def digits(server):
    with CascadeClient(server.grpc_url, "digits") as client:
        client.wait_ready(60)
        yield client


@pytest.fixture(scope="module")
def intents(server):
    with CascadeClient(server.grpc_url, "intents") as client:
        client.wait_ready(60)
        yield client


def run(*arguments):
    """Run a builder command; builds are kept where those of the demo are."""
    more = ["--artifacts", FOLDER] if arguments[0] == "build" else []
    with builder():
        done = CliRunner().invoke(builder_commands, [str(one) for one in (*arguments, *more)])
    assert done.exit_code == 0, done.output
    return done.stdout


def ask(server, *arguments, code=0):
    """Run a client command."""
    command = ["--url", server.grpc_url, "--cascade", "intents", *map(str, arguments)]
    done = CliRunner().invoke(client_commands, command)
    assert done.exit_code == code, done.output
    return SimpleNamespace(out=done.stdout, err=done.stderr)


def assert_equals_oracle(client, repository, rows, canonical, name):
    """Every row at every point, as thresholds by hand over each expert run alone would answer."""
    policy = Policy.read(repository / f"{client.spec().name}_router" / "1" / "policy.json")
    logits = expert_logits(repository, policy, canonical, name)
    values = json.loads(policy.to_json())
    for point in values["points"]:
        edge = point["gates"][0]["threshold"]
        for i, answer in enumerate(client.infer(rows, point=point["name"])):
            tier, label, confidence = oracle.answer(values, logits[:, i], point["name"])
            first = oracle.answer(values, logits[:, i], point["name"], 0, 0)[2]
            if abs(first - edge) > TOO_CLOSE:
                assert (answer.tier, answer.label) == (tier, label), (point["name"], i)
                assert answer.confidence == pytest.approx(confidence, abs=1e-3)
    return logits


def test_digits_by_two_onnx_files(digits, place):
    """Plain tensors through experts that were brought as files: as the oracle says, and right."""
    data = np.load(place / "digits" / "test.npz")
    x, y = data["x"][:300], data["y"][:300]

    assert_equals_oracle(digits, place / "models", list(x), x, "DIGIT")

    labels = [answer.label for answer in digits.infer(x, point="exact")]
    assert np.mean(labels == y) > 0.95
    tiers = [answer.tier for answer in digits.infer(x, point="balanced")]
    assert 0.1 < np.mean(tiers) < 0.6


@needs("clinc150")
def test_texts_are_answered_as_the_oracle_says(intents, place):
    """From text to intent through the served tokeniser: 60 texts at every point."""
    lines = (place / "intents" / "test.csv").read_text().splitlines()[1:1200:20]
    texts = [line.rsplit(",", 1)[0].strip('"') for line in lines]
    wanted = [line.rsplit(",", 1)[1] for line in lines]
    tokenizer = Tokenizer.from_file(
        str(place / "models" / "intents_preprocess" / "1" / "tokenizer.json")
    )
    tokenizer.no_truncation()
    tokenizer.enable_padding(length=40, pad_id=0)
    tokens = np.array([tokenizer.encode(text).ids for text in texts], dtype=np.int64)

    assert_equals_oracle(intents, place / "models", texts, tokens, "TOKENS")

    answers = intents.infer(texts, point="exact")
    assert np.mean([a.label_name == name for a, name in zip(answers, wanted, strict=True)]) > 0.8
    assert {answer.tier for answer in answers} == {0, 1}


@needs("clinc150")
def test_bad_texts_fail_alone(intents):
    """Sent between good ones, each bad text gets its own sentence; the good are answered."""
    good = "play some jazz please"
    expected = intents.infer([good])[0]
    bad = {
        "is not UTF-8": b"play \xff jazz",
        "is empty": " ",
        "holds no words": "\u200b\u200b",
        "tokens, at most 40 are taken": "very " * 60,
        "bytes, at most 262144 are taken": b"x" * 300_000,
    }

    with ThreadPoolExecutor(12) as pool:
        wrong = [(text, pool.submit(intents.infer, [row])) for text, row in bad.items()] * 3
        right = [pool.submit(intents.infer, [good]) for _ in wrong]

    for text, future in wrong:
        with pytest.raises(RequestError, match=text) as caught:
            future.result()
        assert "Traceback" not in str(caught.value)
    for future in right:
        (answer,) = future.result()
        assert (answer.tier, answer.label) == (expected.tier, expected.label)
    with pytest.raises(RequestError, match=r"rows\[1\]: .*is not UTF-8"):
        intents.infer([good, b"\xff"])


@needs("clinc150")
@pytest.mark.parametrize("model", ["intents_router", "intents_minilm"])
def test_rows_that_an_expert_cannot_run_fail_alone(server, intents, model):
    """Past the tokeniser, ids that no word has: a sentence for them, answers for their mates."""
    import tritonclient.grpc as grpc
    from tritonclient.utils import InferenceServerException

    def infer(word):
        tensor = grpc.InferInput("TOKENS", [1, 40], "INT64")
        tensor.set_data_from_numpy(np.full((1, 40), word, dtype=np.int64))
        return client.infer(model, [tensor], client_timeout=30)

    with grpc.InferenceServerClient(server.grpc_url) as client, ThreadPoolExecutor(24) as pool:
        asked = [(word, pool.submit(infer, word)) for word in [2000, 10**9, 2001] * 24]

        for word, future in asked:
            if word == 10**9:
                with pytest.raises(InferenceServerException, match="ONNX Runtime") as caught:
                    future.result()
                assert ".py" not in str(caught.value)
            else:
                assert future.result().get_response().model_name == model


@needs("clinc150")
def test_the_client_reads_texts_line_by_line(server, intents, tmp_path):
    """A bad line is reported, the others are answered; `bench` takes the same files."""
    file = tmp_path / "questions.txt"
    file.write_bytes(b"what is my account balance\n\xff\n\nhow do you say fly in italian\n")

    done = ask(server, "infer", file, "--top", "1", "--json", code=1)

    assert [row["row"] for row in json.loads(done.out)] == [
        "what is my account balance",
        "how do you say fly in italian",
    ]
    assert json.loads(done.out)[1]["label_name"] == "translate"
    assert "is not UTF-8" in done.err
    file.write_text("what is my account balance\nhow do you say fly in italian\n")
    table = ask(server, "infer", file).out
    assert "how do you say fly in italian" in table
    load = ("--seconds", "0.3", "--rounds", "1", "--concurrency", "2", "--json")
    found = json.loads(ask(server, "bench", file, "--point", "fast", *load).out)
    assert found["distinct_rows"] == 2


@needs("clinc150")
def test_texts_are_recorded_planned_and_calibrated(place):
    """The same flow as for pictures: labelled texts in, a plan and a certified ladder out."""
    spec, repository = place / "intents" / "cascade.toml", place / "models"
    out = place / "records.npz"
    data = ["--data", place / "intents" / "test.csv", "--repository", repository, "--out", out]

    report = json.loads(run("record", spec, *data, "--limit", "900", "--json"))
    found = json.loads(run("plan", spec, "--records", out, "--drop", "0.02", "--json"))
    ladder = json.loads(
        run(
            *("calibrate", spec, "--records", out, "--repository", repository, "--dry-run"),
            *("--drop", "0.05", "--no-report", "--force", "--json"),
        )
    )

    assert (report["rows"], report["labelled"]) == (900, True)
    assert found["experts"] == ["bag", "minilm"]
    assert found["alone"][1]["cost_ms"] > 10 * found["alone"][0]["cost_ms"]
    assert [point["name"] for point in ladder["verdict"]["points"]][-1] == "exact"
