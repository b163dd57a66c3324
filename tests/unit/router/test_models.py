"""The other Python models of a repository, with Triton's API faked."""

import io
import json
import shutil
import sys

import numpy as np
import onnx
import pytest
from fake_triton import Request, Server
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tokeniser import CLS, SEP, tokenizer_json

from cascade_router import Gate, OperatingPoint, Policy, Tier, TierError, triton_io
from cascade_router.control import TritonPythonModel as Control
from cascade_router.errors import BusyError, CascadeError, DeadError
from cascade_router.images_model import TritonPythonModel as Images
from cascade_router.keys import Keys
from cascade_router.onnx_expert import TritonPythonModel as Expert
from cascade_router.text_model import TritonPythonModel as Texts


@pytest.fixture(autouse=True)
def server(monkeypatch):
    made = Server()
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", made.module())
    triton_io._pb.cache_clear()
    return made


PORTS = {"input": [{"name": "X"}], "output": [{"name": "LOGITS"}]}


def started(model, folder, **parameters):
    config = {"parameters": {k: {"string_value": v} for k, v in parameters.items()}, **PORTS}
    model.initialize(
        {
            "model_config": json.dumps(config),
            "model_repository": str(folder),
            "model_version": "1",
        }
    )
    return model


def picture(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def images(*data):
    return Request({"IMAGE": np.array([[d] for d in data], dtype=np.object_)})


def test_a_broken_picture_fails_its_own_request_only(tmp_path):
    """Batch mates of a broken picture are decoded; its error says which row of the request."""
    model = started(Images(), tmp_path, size="4")
    requests = [images(picture("red")), images(b"no"), images(picture("blue"), b"")]

    good, bad, second_row = model.execute(requests)

    assert good.output("PIXELS").shape == (1, 4, 4, 3)
    assert good.output("PIXELS")[0, 0, 0].tolist() == [255, 0, 0]
    assert "not a picture" in bad.error().message()
    assert second_row.error().message().startswith("row 1: input IMAGE: is empty")
    assert {r.error().code() for r in (bad, second_row)} == {"INVALID_ARG"}


def test_a_bad_text_fails_its_own_request_only(tmp_path):
    """Batch mates of a bad text are tokenised; its error says which row of the request."""
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "tokenizer.json").write_text(tokenizer_json())
    model = started(Texts(), tmp_path, length="5", pad="0", truncate="false")

    def texts(*data):
        return Request({"TEXT": np.array([[d] for d in data], dtype=np.object_)})

    good, bad, second_row = model.execute(
        [texts(b"play jazz", b"jazz"), texts(b"\xff"), texts(b"jazz", b"play some jazz a")]
    )

    assert good.output("TOKENS").tolist() == [[CLS, 4, 6, SEP, 0], [CLS, 6, SEP, 0, 0]]
    assert good.output("TOKENS").dtype == np.int64
    assert bad.error().message().startswith("input TEXT: is not UTF-8")
    assert second_row.error().message().startswith("row 1: input TEXT: has 6 tokens, at most 5")
    assert {r.error().code() for r in (bad, second_row)} == {"INVALID_ARG"}


def onnx_that_looks_up(path):
    """Write an expert that has logits for the inputs 0 and 1, and fails for others."""
    tensors = [
        helper.make_tensor_value_info("X", TensorProto.INT64, ["n"]),
        helper.make_tensor_value_info("LOGITS", TensorProto.FLOAT, ["n", 3]),
    ]
    table = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "table")
    node = helper.make_node("Gather", ["table", "X"], ["LOGITS"])
    graph = helper.make_graph([node], "look", tensors[:1], tensors[1:], [table])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def test_rows_that_an_expert_cannot_run_fail_their_own_request_only(tmp_path):
    """Whoever sent them reads the model's sentence, and nothing of our files."""
    (tmp_path / "1").mkdir()
    onnx_that_looks_up(tmp_path / "1" / "model.onnx")
    expert = started(Expert(), tmp_path)
    requests = [Request({"X": np.array(rows)}) for rows in ([1], [99], [0, 1])]

    first, bad, last = expert.execute(requests)
    (alone,) = expert.execute(requests[1:2])

    assert first.output("LOGITS").tolist() == [[3, 4, 5]]
    assert last.output("LOGITS").tolist() == [[0, 1, 2], [3, 4, 5]]
    for failed in (bad, alone):
        assert failed.error().message().startswith("ONNX Runtime: ")
        assert failed.error().code() == "INTERNAL"
        assert ".py" not in failed.error().message()


MANIFEST = {"cascade": "c", "experts": [{"name": "a", "digest": "d"}]}


@pytest.fixture
def control(tmp_path):
    version = tmp_path / "c_router" / "1"
    version.mkdir(parents=True)
    policy = Policy(
        cascade="c",
        activation="softmax",
        n_classes=2,
        tiers=(Tier(name="a", model="c_a", digest="d"),),
        points=tuple(OperatingPoint(name=n, gates=(Gate(),)) for n in ("only", "other")),
        default="only",
    )
    (version / "policy.json").write_text(policy.to_json())
    (version / "manifest.json").write_text(json.dumps(MANIFEST))
    return started(Control(), tmp_path / "c_control", router="c_router")


def command(text):
    return Request({"COMMAND": np.array([text], dtype=np.object_)})


def test_show_tells_policy_and_manifest(control):
    """What a client needs to know about a running cascade comes as one JSON object."""
    (answer,) = control.execute([command(b'{"do": "show"}')])

    shown = json.loads(answer.output("REPLY")[0])
    assert shown["default_point"] == "only"
    assert shown["policy"]["points"][0]["name"] == "only"
    assert shown["manifest"] == MANIFEST
    assert (shown["history"], shown["refused"], shown["labels"]) == ([], None, [])


def test_set_switches_the_default_and_records_who(control, tmp_path):
    """The change is answered with its record, shown afterwards, and lies in the router's folder."""
    asked = b'{"do": "set", "point": "other", "who": "ann"}'

    (answer,) = control.execute([command(asked)])

    change = json.loads(answer.output("REPLY")[0])
    assert (change["was"], change["point"], change["who"]) == ("only", "other", "ann")
    (shown,) = control.execute([command(b'{"do": "show"}')])
    assert json.loads(shown.output("REPLY")[0])["default_point"] == "other"
    assert json.loads((tmp_path / "c_router/1/switch.json").read_text())["default"] == "other"


def test_commands_are_about_the_version_in_force(control, tmp_path):
    """The ensemble's step names it, and may name another one by the next command."""
    shutil.copytree(tmp_path / "c_router" / "1", tmp_path / "c_router" / "2")
    (tmp_path / "c").mkdir()
    step = 'ensemble_scheduling { step { model_name: "c_router" model_version: 2 } }'
    (tmp_path / "c" / "config.pbtxt").write_text(step)

    control.execute([command(b'{"do": "set", "point": "other"}')])

    assert not (tmp_path / "c_router/1/switch.json").exists()
    assert json.loads((tmp_path / "c_router/2/switch.json").read_text())["default"] == "other"
    (shown,) = control.execute([command(b'{"do": "show"}')])
    assert json.loads(shown.output("REPLY")[0])["router_version"] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "input COMMAND: not JSON"),
        (b"\xff\xfe", "input COMMAND: not JSON"),
        (b"[1]", "input COMMAND: expected a table, got list"),
        (b'{"do": "shew"}', "got 'shew'"),
        (b"{}", "the key 'do' is missing"),
        (b'{"do": "set", "point": "turbo"}', "'turbo' is unknown; this policy has only, other"),
        (b'{"do": "set"}', "the key 'point' is missing"),
        (b'{"do": "show", "loud": 1}', "input COMMAND.loud is not a key"),
    ],
)
def test_a_wrong_command_is_refused(control, text, message):
    """The control model answers nonsense with a sentence, not with a traceback."""
    (answer,) = control.execute([command(text)])

    assert message in answer.error().message()
    assert answer.error().code() == "INVALID_ARG"


def test_what_a_command_quotes_need_not_be_text(control):
    """JSON can hold half a character; the refusal that quotes it is sendable."""
    (answer,) = control.execute([command(rb'{"do": "show", "\ud800": 1}')])

    answer.error().message().encode()
    assert answer.error().code() == "INVALID_ARG"


def test_a_fault_of_ours_fails_its_own_request_and_stays_in_the_log(control, monkeypatch, caplog):
    """The client reads that there was one, its batch mates their answers."""
    monkeypatch.setattr(control, "_labels", {}.popitem)
    fault, good = control.execute([command(b'{"do": "show"}'), command(b'{"do": "sing"}')])

    assert fault.error().message() == "fault in the model, see the server's log"
    assert "KeyError" in caplog.text
    assert good.error().code() == "INVALID_ARG"


def set_point(control, **more):
    text = json.dumps({"do": "set", "point": "other", **more}).encode()
    (answer,) = control.execute([command(text)])
    return answer


def test_a_guarded_server_switches_for_the_holder_only(control, tmp_path, monkeypatch):
    """Everybody may look; the file is read at each change, and unusable means nobody."""
    path = tmp_path / "keys"
    keys = Keys.create(path)
    monkeypatch.setenv("CASCADE_KEYS", str(path))

    for wrong in ({}, {"key": ""}, {"key": keys.control}):
        refused = set_point(control, **wrong).error()
        assert "only the holder of the policy key" in refused.message()
        assert refused.code() == "INVALID_ARG"
    assert not control.execute([command(b'{"do": "show"}')])[0].has_error()
    assert not set_point(control, key=keys.policy).has_error()
    path.chmod(0o644)
    message = set_point(control, key=keys.policy).error().message()
    assert "key file cannot be used" in message
    assert str(path) not in message


def test_an_unguarded_server_switches_for_everyone(control, monkeypatch):
    """On loopback, without keys, as ever; a client that has a key may send it."""
    monkeypatch.delenv("CASCADE_KEYS", raising=False)

    assert not set_point(control).has_error()
    assert not set_point(control, key="whatever").has_error()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("Exceeds maximum queue size", BusyError),
        ("Request timeout expired", BusyError),
        ("Stub process 'c_large_0_0' is not healthy.", DeadError),
        ("Failed for execute the inference request. Model 'x' is not ready.", DeadError),
        ("index 9 is out of bounds", TierError),
    ],
)
def test_triton_s_words_say_what_failed(server, text, error):
    """All of them have one status on 2.51."""
    server.models["m"] = lambda inputs: text

    with pytest.raises(CascadeError) as caught:
        triton_io.call("m", {"X": np.zeros((1, 3), dtype=np.float32)}, "LOGITS")

    assert type(caught.value) is error


def test_the_stack_of_a_model_that_raised_stays_where_it_is(server):
    """Models of others are called, too; Triton appends where they failed to what they say."""
    server.models["m"] = lambda inputs: "TypeError: no\n\nAt:\n  /models/m/1/model.py(9): execute\n"

    with pytest.raises(TierError) as caught:
        triton_io.call("m", {"X": np.zeros((1, 3), dtype=np.float32)}, "LOGITS")

    assert str(caught.value) == "TypeError: no"
