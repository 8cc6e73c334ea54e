"""The gateway in front of the real node, over real DDS."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import PIL.Image
import pytest
from builtin_interfaces.msg import Time
from qwen3vl_ros.action import AskImage
from qwen3vl_ros.msg import Answer
from rclpy.duration import Duration
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage

import third_party
from gateway_server import data_url, events, image_file, question
from qwen3vl_ros.gateway.tool_calls import tools_text
from ros_client import SENSOR_DATA, RosClient, noise_image
from vlm_process import SharedVlm, VlmProcess
from web_process import PATIENCE, WebProcess, wait_ready, wait_status

pytestmark = pytest.mark.ros
CHAT = "/v1/chat/completions"
Start = Callable[..., WebProcess]


@pytest.fixture
def start_web(tmp_path: Path, ros: RosClient) -> Iterator[Start]:
    """Start gateways of a test's own."""
    started: list[WebProcess] = []

    def start(environment: dict[str, str] | None = None, **parameters: object) -> WebProcess:
        started.append(WebProcess(tmp_path / "logs", parameters, os.environ | (environment or {})))
        return started[-1]

    yield start
    for process in started:
        process.close()


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, dds_profile: None) -> Iterator[WebProcess]:
    """The gateway that the tests share."""
    process = WebProcess(tmp_path_factory.mktemp("web") / "logs", {}, os.environ)
    process.wait_url()
    yield process
    process.close()


@pytest.fixture
def http(web: WebProcess) -> Iterator[httpx.Client]:
    with web.client() as client:
        yield client


def content_of(response: httpx.Response) -> str:
    return str(response.raise_for_status().json()["choices"][0]["message"]["content"])


PARROT = """
    import json
    from qwen3vl_ros.engines.base import *
    from qwen3vl_ros.engines.base import Usage

    class Parrot:
        '''Says what it read. Asked to "wait", it says one token and then waits to be cancelled.'''

        def __init__(self, progress, concurrency=1):
            self._concurrency = concurrency

        def describe(self):
            able = {"text_only", "system_prompt", "temperature", "max_tokens"}
            return Description("parrot", "parrot-1", max_images=8, supports=frozenset(able),
                               concurrency=self._concurrency, details={"tools": "hermes"})

        def generate(self, request, cancel):
            turns = [[m.role, [p if isinstance(p, str) else list(p.shape) for p in m.content]]
                     for m in request.messages]
            waits = "wait" in json.dumps(turns)
            yield Chunk(Stage.PREFILL)
            yield Chunk(Stage.DECODE, "tick " if waits else json.dumps(turns), "", 1)
            if waits:
                cancel.wait()
                yield Chunk(Stage.DECODE, "", "", 1, "cancelled", Usage(completion_tokens=1))
            else:
                yield Chunk(Stage.DECODE, "", "", 1, "stop", Usage(prompt_tokens=5, completion_tokens=1))

        def close(self):
            pass
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return third_party.install(tmp_path_factory.mktemp("parrot"), PARROT, {"parrot": "Parrot"})


@pytest.fixture
def start_parrot(installed: Path, monkeypatch: pytest.MonkeyPatch, shared_vlm: SharedVlm) -> Callable[[], VlmProcess]:
    """Start a node that says what it read, unless it runs; it takes the place of the one that tests share."""
    monkeypatch.setenv("PYTHONPATH", str(installed))

    def start() -> VlmProcess:
        return shared_vlm.get(engine="parrot", cameras=["front", "rear", ""], queue_size=1, frame_timeout=20.0)

    return start


@pytest.fixture
def parrot(http: httpx.Client, start_parrot: Callable[[], VlmProcess]) -> VlmProcess:
    """The node that says what it read, known to the gateway."""
    node = start_parrot()
    wait_status(http, lambda status: (status["state"], status["engine"]) == ("ready", "parrot"))
    return node


def test_an_answer_over_http_is_the_answer_over_ros(ros: RosClient, vlm: VlmProcess, http: httpx.Client) -> None:
    status = wait_ready(http)
    assert (status["engine"], status["model"]) == ("llama", "Tabletop")
    assert http.get("/v1/models/Tabletop").json()["max_model_len"] == 4096
    file = image_file(96, 64)
    message = CompressedImage(format="png", data=file)
    wanted = ros.ask("What colour is the box?", compressed_images=[message], options={"max_tokens": 8}).result()
    body = question(file, "What colour is the box?", temperature=0, max_tokens=8)
    reply = http.post(CHAT, json=body)
    assert content_of(reply) == wanted.text
    assert reply.json()["usage"]["prompt_tokens"] == wanted.usage.prompt_tokens
    form = {"prompt": "What colour is the box?", "temperature": "0", "max_tokens": "8"}
    assert content_of(http.post(CHAT, files={"image": ("box.png", file, "image/png")}, data=form)) == wanted.text
    with http.stream("POST", CHAT, json={**body, "stream": True}) as response:
        chunks = list(events(response))
    deltas = [choice["delta"] for chunk in chunks[:-1] if isinstance(chunk, dict) for choice in chunk["choices"]]
    assert "".join(delta.get("content", "") for delta in deltas) == wanted.text


TOOL = {"type": "function", "function": {"name": "drive", "description": "Drives.", "parameters": {}}}


def test_a_model_whose_template_has_no_tools_is_offered_none(vlm: VlmProcess, http: httpx.Client) -> None:
    wait_ready(http)
    while (refused := http.post(CHAT, json=question(image_file(), "Drive.", tools=[TOOL]))).status_code == 503:
        assert "not told yet" in refused.text  # its diagnostics come once a second
        time.sleep(float(refused.headers["Retry-After"]))
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (400, "tools")
    assert "the model Tabletop has no tools" in error["message"]


def test_a_model_that_knows_tools_is_told_of_them(parrot: VlmProcess, http: httpx.Client) -> None:
    body = question("Drive.", tools=[TOOL])
    while (reply := http.post(CHAT, json=body)).status_code == 503:
        time.sleep(float(reply.headers["Retry-After"]))
    (system, told), (user, asked) = json.loads(content_of(reply))
    assert (system, told, user, asked) == ("system", [tools_text([TOOL])], "user", ["Drive."])


def test_tasks_are_those_of_the_node(vlm: VlmProcess, http: httpx.Client) -> None:
    wait_ready(http)
    tasks = {task["name"]: task for task in http.get("/api/tasks").raise_for_status().json()}
    assert tasks["locate"]["parser"] == "regions"
    slot = next(slot for slot in tasks["classify"]["slots"] if slot["name"] == "labels")
    assert (slot["type"], slot["required"]) == ("texts", True)


@pytest.mark.once
def test_a_conversation_reaches_the_model_turn_by_turn(parrot: VlmProcess, http: httpx.Client) -> None:
    url = {"type": "image_url", "image_url": {"url": data_url(image_file(64, 32))}}
    body = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Look:"}, url, {"type": "text", "text": "what?"}]},
            {"role": "assistant", "content": "A ball."},
            *question(image_file(32, 64), "And here?")["messages"],
        ]
    }
    assert json.loads(content_of(http.post(CHAT, json=body))) == [
        ["system", ["Be brief."]],
        ["user", ["Look:", [32, 64, 3], "what?"]],
        ["assistant", ["A ball."]],
        ["user", [[64, 32, 3], "And here?"]],
    ]


@pytest.mark.once
def test_texts_and_images_reach_the_model_in_their_order(parrot: VlmProcess, http: httpx.Client) -> None:
    body = question("Left:", image_file(64, 32), "Right:", image_file(32, 64))
    assert json.loads(content_of(http.post(CHAT, json=body))) == [
        ["user", ["Left:", [32, 64, 3], "Right:", [64, 32, 3]]]
    ]


@pytest.mark.once
def test_two_messages_of_the_user_are_not_glued_together(parrot: VlmProcess, http: httpx.Client) -> None:
    turns = [{"role": "user", "content": "Make a title"}, {"role": "user", "content": "A man at the door"}]
    assert json.loads(content_of(http.post(CHAT, json={"messages": turns}))) == [
        ["user", ["Make a title\n\nA man at the door"]]
    ]


def test_a_question_waits_while_the_engine_restarts(parrot: VlmProcess, http: httpx.Client) -> None:
    os.kill(parrot.worker(), signal.SIGKILL)
    wait_status(http, lambda status: status["state"] == "loading")
    assert json.loads(content_of(http.post(CHAT, json=question("And now?")))) == [["user", ["And now?"]]]


def test_a_gateway_that_has_just_started_finds_the_node_for_its_first_question(
    parrot: VlmProcess, start_web: Start
) -> None:
    with start_web().client() as http:
        assert json.loads(content_of(http.post(CHAT, json=question("Who?")))) == [["user", ["Who?"]]]


@pytest.mark.once
def test_through_a_proxy_that_is_not_trusted_nobody_is_somebody_else(web: WebProcess, http: httpx.Client) -> None:
    before = (web.logs / "access.log").read_text()
    assert http.get("/health", headers={"X-Forwarded-For": "6.6.6.6"}).status_code == 200
    http.get("/health")  # so that the entry of the one before is there
    assert "6.6.6.6" not in (web.logs / "access.log").read_text().removeprefix(before)


def wait_for_tick(coming: Iterator[Any]) -> list[str]:
    """Read on until the model has said its one token; the stages that were shown before it."""
    stages: list[str] = []
    for chunk in coming:
        if isinstance(chunk, dict) and "tick" in json.dumps(chunk):
            return stages
        if isinstance(chunk, dict) and "qwen3vl_ros" in chunk:
            stages.append(chunk["qwen3vl_ros"]["stage"])
    raise AssertionError(f"the stream ended after the stages {stages}")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_cancels_its_goal_within_a_token(
    ros: RosClient, parrot: VlmProcess, http: httpx.Client, stream: bool
) -> None:
    with ros.listen(Answer, "/vlm/answers") as answers:
        if stream:
            with http.stream("POST", CHAT, json=question("Please wait.", stream=True)) as response:
                wait_for_tick(events(response))
        else:
            with pytest.raises(httpx.ReadTimeout):
                http.post(CHAT, json=question("Please wait."), timeout=httpx.Timeout(PATIENCE, read=3.0))
        answer = answers.wait_for(lambda message: message.prompt == "Please wait.")
    assert answer.error_code == AskImage.Result.CANCELLED
    assert answer.text == "tick "
    assert answer.usage.completion_tokens == 1


def test_a_stream_shows_its_stage_or_its_place_in_the_queue_and_a_full_queue_is_503(
    parrot: VlmProcess, http: httpx.Client
) -> None:
    with http.stream("POST", CHAT, json=question("Please wait.", stream=True)) as first:
        running = events(first)  # kept: a generator that is dropped closes its stream
        assert wait_for_tick(running)[-1] == "decode"
        with http.stream("POST", CHAT, json=question("Please wait, too.", stream=True)) as second:
            waiting = events(second)
            shown = next(c for c in waiting if isinstance(c, dict) and "qwen3vl_ros" in c)
            assert shown["qwen3vl_ros"] == {"stage": "queued", "queue_position": 1}
            refused = http.post(CHAT, json=question("And I?"))
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "busy"
            assert refused.headers["retry-after"]
    wait_status(http, lambda status: status["state"] == "ready" and status["queue_length"] == 0)


@pytest.mark.once
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (question(camera="left"), "there is no camera 'left'"),
        (question(seed=5), "seed: engine 'parrot' cannot honour it"),
        (question(task="dance"), 'there is no "dance"'),
        (question(image_file(8, 8)[:-40], "What?"), "cut off or broken"),
    ],
)
def test_what_the_node_refuses_is_400_with_its_sentence(
    parrot: VlmProcess, http: httpx.Client, body: dict[str, Any], words: str
) -> None:
    response = http.post(CHAT, json=body)
    assert response.status_code == 400, response.text
    assert words in response.json()["error"]["message"]


def moment(ros: RosClient, offset: float = 0.0) -> Time:
    """``offset`` seconds from now."""
    return (ros.node.get_clock().now() + Duration(seconds=offset)).to_msg()


class Publisher:
    """A camera's image on ``topic``, ten times a second. ``stamp``: gives each its stamp, without it the time."""

    def __init__(
        self, ros: RosClient, topic: str, stamp: Callable[[], Time] | None = None, size: tuple[int, int] = (96, 64)
    ) -> None:
        self._ros = ros
        self._message = noise_image(*size)
        self._stamp = stamp or (lambda: moment(ros))
        self._publisher = ros.node.create_publisher(type(self._message), topic, SENSOR_DATA)
        self._timer = ros.node.create_timer(0.1, self._publish)

    def _publish(self) -> None:
        self._message.header.stamp = self._stamp()
        self._publisher.publish(self._message)

    def stop(self) -> None:
        """Nothing comes any more."""
        self._timer.cancel()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self._ros.node.destroy_timer(self._timer)
        self._ros.node.destroy_publisher(self._publisher)


@pytest.mark.parametrize(("name", "topic"), [("front", "/front/image"), ("default", "/image")])
def test_a_live_camera_is_seen_and_asked_about(
    ros: RosClient, parrot: VlmProcess, http: httpx.Client, name: str, topic: str
) -> None:
    with Publisher(ros, topic):
        status = wait_status(http, lambda status: any(c["age"] is not None for c in status["cameras"]))
        cameras = {camera["name"]: camera for camera in status["cameras"]}
        assert list(cameras) == ["front", "rear", "default"]
        assert cameras[name]["topic"] == topic
        assert cameras["rear"]["problem"] == "nobody publishes /rear/image"
        frame = http.get(f"/api/cameras/{name}/frame.jpg", params={"width": 48})
        assert frame.status_code == 200, frame.text
        assert frame.headers["x-frame-size"] == "96x64"
        assert float(frame.headers["x-frame-stamp"]) > 1e9
        assert 0.0 <= float(frame.headers["x-frame-age"]) < 2.0
        assert PIL.Image.open(io.BytesIO(frame.content)).size == (48, 32)
        reply = http.post(CHAT, json=question("What?", camera=name))
        assert json.loads(content_of(reply)) == [["user", [[64, 96, 3], "What?"]]]
        assert reply.json()["qwen3vl_ros"]["image_headers"][0]["stamp"]["sec"] > 1e9


def front(http: httpx.Client) -> httpx.Headers:
    """What the gateway says about the newest frame of the camera "front"."""
    frame = http.get("/api/cameras/front/frame.jpg")
    assert frame.status_code == 200, frame.text
    return frame.headers


def age_of(http: httpx.Client) -> float:
    return float(front(http)["x-frame-age"])


STAMPS = {
    "now": (moment, 0.0, 16),
    "old": (lambda ros: moment(ros, -1.0), 1.0, 24),
    "ahead": (lambda ros: moment(ros, 1.9), 0.0, 32),
    "none": (lambda ros: Time(), 0.0, 40),
}


@pytest.mark.parametrize(("stamp", "least", "size"), STAMPS.values(), ids=STAMPS)
def test_the_frame_of_a_camera_that_stops_gets_older_whatever_its_stamps(
    ros: RosClient, parrot: VlmProcess, http: httpx.Client, stamp: Callable[[RosClient], Time], least: float, size: int
) -> None:
    wait_status(http, lambda status: status["cameras"])
    with Publisher(ros, "/front/image", lambda: stamp(ros), (size, size)) as camera:
        while (seen := front(http))["x-frame-size"] != f"{size}x{size}":
            """The gateway still has a frame of the test before."""
        assert float(seen["x-frame-stamp"]) > 1e9  # without one, the time of its arrival
        camera.stop()
        age_of(http)  # its last frame is taken
        times, ages = [], []
        for _ in range(5):
            begun = time.monotonic()
            ages.append(age_of(http))
            times.append((begun, time.monotonic()))
    assert least <= ages[0] < 2.0
    assert times[-1][0] - times[0][1] - 0.001 <= ages[-1] - ages[0] <= times[-1][1] - times[0][0] + 0.001


def test_in_simulated_time_a_frames_age_is_simulated_but_grows_when_the_simulation_ends(
    ros: RosClient, parrot: VlmProcess, start_web: Start
) -> None:
    publisher = ros.node.create_publisher(Clock, "/clock", SENSOR_DATA)
    clock = ros.node.create_timer(0.05, lambda: publisher.publish(Clock(clock=Time(sec=100))))
    web = start_web(use_sim_time=True)
    try:
        with web.client() as http, Publisher(ros, "/front/image", lambda: Time(sec=99)) as camera:
            wait_status(http, lambda status: status["cameras"])
            assert age_of(http) == pytest.approx(1.0, abs=0.5)
            camera.stop()
            give_up = time.monotonic() + PATIENCE
            while age_of(http) < 1.6:
                assert time.monotonic() < give_up
    finally:
        ros.node.destroy_timer(clock)
        ros.node.destroy_publisher(publisher)


def test_a_camera_that_shows_nothing_says_why(parrot: VlmProcess, http: httpx.Client) -> None:
    wait_status(http, lambda status: status["cameras"])
    dark = http.get("/api/cameras/rear/frame.jpg")
    assert dark.status_code == 503
    assert "nobody publishes it" in dark.json()["error"]["message"]
    unknown = http.get("/api/cameras/left/frame.jpg")
    assert unknown.status_code == 404
    assert "'front', 'rear', 'default'" in unknown.json()["error"]["message"]


def test_a_node_that_goes_and_comes_is_noticed(
    web: WebProcess, parrot: VlmProcess, http: httpx.Client, start_parrot: Callable[[], VlmProcess]
) -> None:
    parrot.stop()
    gone = wait_status(http, lambda status: not status["node"])
    assert (gone["state"], gone["cameras"]) == ("absent", [])
    assert http.get("/ready").status_code == 503
    refused = http.post(CHAT, json=question())
    assert refused.status_code == 503
    assert "qwen3vl-ros node" in refused.json()["error"]["message"]
    start_parrot()
    assert wait_ready(http)["node"] is True
    assert content_of(http.post(CHAT, json=question("Who are you?")))
    lines = (web.logs / "model.log").read_text().splitlines()
    assert any("/vlm: ready, engine parrot, model parrot-1" in line for line in lines)


def test_forty_clients_at_once_get_their_own_answers(
    ros: RosClient, parrot: VlmProcess, start_web: Start, http: httpx.Client
) -> None:
    """None is lost: the middleware holds ten requests of a kind where nobody asks for more."""
    assert ros.set_parameter("queue_size", 40).successful
    web = start_web(concurrency=40)
    with web.client(limits=httpx.Limits(max_connections=40)) as own, ThreadPoolExecutor(40) as pool:
        wait_ready(own)
        ready = threading.Barrier(40)

        def ask(number: int) -> bool:
            ready.wait(PATIENCE)
            reply = content_of(own.post(CHAT, json=question(f"I am {number}.")))
            return json.loads(reply) == [["user", [f"I am {number}."]]]

        assert all(pool.map(ask, range(40)))
    assert ros.set_parameter("queue_size", 1).successful


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_gateway_and_its_questions(
    ros: RosClient, parrot: VlmProcess, start_web: Start, number: int
) -> None:
    web = start_web()
    with web.client() as http, ros.listen(Answer, "/vlm/answers") as answers:
        wait_ready(http)
        with http.stream("POST", CHAT, json=question("Please wait.", stream=True)) as response:
            coming = events(response)
            wait_for_tick(coming)
            assert web.stop(number) == 0
            *_, failure, done = coming
            assert failure["error"]["code"] == "cancelled"
            assert done == "[DONE]"
        answer = answers.wait_for(lambda message: message.prompt == "Please wait.")
        assert answer.error_code == AskImage.Result.CANCELLED


@pytest.mark.once
def test_a_gateway_that_would_be_open_to_the_network_does_not_start(start_web: Start) -> None:
    web = start_web(host="0.0.0.0")
    assert web.wait_end() == 1
    assert "there is no token" in web.output
    assert "allow_without_token" in web.output


@pytest.mark.once
def test_with_a_token_it_listens_to_the_network(start_web: Start) -> None:
    web = start_web({"QWEN3VL_WEB_TOKEN": "0123456789abcdef"}, host="0.0.0.0")
    port = web.wait_url().rsplit(":", 1)[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE, trust_env=False) as http:
        assert http.get("/api/status").status_code == 401
        bearer = {"Authorization": "Bearer 0123456789abcdef"}
        assert http.get("/api/status", headers=bearer).json()["token_required"] is True


@pytest.mark.once
def test_a_port_that_is_taken_is_a_sentence(web: WebProcess, start_web: Start) -> None:
    port = int(web.url.rsplit(":", 1)[1])
    second = start_web(port=port)
    assert second.wait_end() == 1
    assert f"nothing can listen on 127.0.0.1 port {port}" in second.output
    assert f"`qwen3vl-ros web --ros-args -p port:={port + 1}`" in second.output
