"""Conversations that go on from their kept state, over real processes: the same answers, bit for bit, as when the whole
text is sent again, from memory and from files, on any worker; and what happens when there is nothing to go on with."""
import concurrent.futures
import os

import grpc
import pytest

from baton.v1 import inference_pb2 as pb
from fleet import GEMMA, RECURRENT
from messages import chat, failure_of, greedy, tokens
from process import wait_until

MODELS = [GEMMA, RECURRENT]
# What is cached here comes from sessions.
NO_CACHE = ["--prefix-cache", "off"]


def spilling(directory):
    """Flags by which nothing stays in memory once it is written."""
    return ["--session-dir", str(directory), "--session-memory", "0"]


@pytest.fixture(scope="module", params=["memory", "files"])
def fleet(request, launch, tmp_path_factory):
    directory = tmp_path_factory.mktemp("sessions")
    flags = [] if request.param == "memory" else spilling(directory)
    fleet = launch(models=MODELS, prefill_flags=[*NO_CACHE, "--chunk-tokens", "16"], decode_flags=flags)
    fleet.kept_in = directory if flags else None
    return fleet


def settle(fleet):
    """Until what was kept is where it is to stay."""
    if getattr(fleet, "kept_in", None):
        wait_until(lambda: all(not decode.value("baton_sessions", place="memory") for decode in fleet.decodes),
                   "sessions are written")


def ids_of(count, start):
    return [1000 + (start + i * 7) % 900 for i in range(count)]


# How a turn may end; each with more than one token to compare.
TURNS = {
    "length": dict(sampling=pb.SamplingParams(temperature=1.3, seed=5),
                   stopping=pb.StoppingParams(max_new_tokens=30, ignore_eos=True)),
    "greedy": dict(sampling=greedy(), stopping=pb.StoppingParams(max_new_tokens=20, ignore_eos=True)),
    # Ends with a stop token sooner or later.
    "stop": dict(sampling=pb.SamplingParams(temperature=1.5, seed=11),
                 stopping=pb.StoppingParams(max_new_tokens=400, ignore_eos=True,
                                            stop_token_ids=list(range(300, 700)))),
    "first": dict(sampling=greedy(), stopping=pb.StoppingParams(max_new_tokens=1, ignore_eos=True)),
    "penalties": dict(sampling=pb.SamplingParams(temperature=1.1, repetition_penalty=1.3, frequency_penalty=0.3, seed=9),
                      stopping=pb.StoppingParams(max_new_tokens=25, ignore_eos=True)),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", TURNS)
def test_three_turns_equal_the_whole_text_sent_again(fleet, model, kind):
    output = pb.OutputParams(logprobs=True)
    conversation = [2] + ids_of(130, 1)
    handle = ""
    for turn in range(3):
        new = conversation if turn == 0 else ids_of(17 + turn, 50 * turn)
        if turn > 0:
            conversation = conversation + new
        kept = fleet.generate(tokens(new, model, session=handle, keep_state=True, output=output, **TURNS[kind]))
        whole = fleet.generate(tokens(conversation, model, output=output, **TURNS[kind]))
        assert list(kept.token_ids) == list(whole.token_ids), f"turn {turn}"
        assert list(kept.logprobs) == list(whole.logprobs)
        assert kept.finished.reason == whole.finished.reason
        assert kept.finished.usage.prompt_tokens == len(conversation) == whole.finished.usage.prompt_tokens
        cached = kept.finished.usage.cached_prompt_tokens
        assert (cached > 0) == (turn > 0)
        if turn > 0:
            # All but what is new, and the last token of the answer if it was not a stop token.
            assert len(conversation) - len(new) - 1 <= cached <= len(conversation) - len(new)
        assert kept.finished.session.expires_in_seconds > 500
        handle = kept.finished.session.handle
        assert len(handle) == 48
        conversation = conversation + list(kept.token_ids)
        settle(fleet)


@pytest.mark.parametrize("model", MODELS)
def test_chat_turns_close_the_answer(fleet, model):
    first = fleet.generate(chat("What is the capital of France?", model, keep_state=True, sampling=greedy()))
    settle(fleet)
    second = fleet.generate(chat("And of Italy?", model, session=first.finished.session.handle, sampling=greedy()))
    turns = [pb.ChatMessage(role="user", content="What is the capital of France?"),
             pb.ChatMessage(role="model", content=first.text), pb.ChatMessage(role="user", content="And of Italy?")]
    whole = fleet.generate(pb.GenerateRequest(model=model, chat=pb.ChatPrompt(messages=turns), sampling=greedy()))
    assert second.text == whole.text
    assert second.finished.usage.prompt_tokens == whole.finished.usage.prompt_tokens
    assert second.finished.usage.cached_prompt_tokens > 0
    assert not second.finished.HasField("session"), "nobody asked"


def expect_goes_on(fleet, model, conversation, handle, pending=1):
    """The turn after this conversation is, bit for bit, that of a request that sends all of it."""
    settle(fleet)
    new = ids_of(9, 7)
    logprobs = pb.OutputParams(logprobs=True)
    kept = fleet.generate(tokens(new, model, session=handle, output=logprobs, **TURNS["length"]))
    whole = fleet.generate(tokens(conversation + new, model, output=logprobs, **TURNS["length"]))
    assert list(kept.token_ids) == list(whole.token_ids)
    assert list(kept.logprobs) == list(whole.logprobs)
    assert kept.finished.usage.prompt_tokens == len(conversation) + len(new)
    assert kept.finished.usage.cached_prompt_tokens == len(conversation) - pending


@pytest.mark.parametrize("model", MODELS)
def test_turns_that_end_with_a_stop_string_go_on(fleet, model):
    conversation = [2] + ids_of(60, 1)
    sampling = pb.SamplingParams(temperature=1.2, seed=3)
    stopping = pb.StoppingParams(max_new_tokens=60, ignore_eos=True)
    text = fleet.generate(tokens(conversation, model, sampling=sampling, stopping=stopping)).text
    half = len(text) // 2
    for number, stop in enumerate([[text[half]], [text[half - 10:half + 10]],
                                   ["never", text[half:half + 8] + "never", text[half + 2:half + 6]], [text[:1]]]):
        request = tokens(conversation, model, sampling=sampling, stopping=stopping)
        request.stopping.stop[:] = stop
        request.stopping.include_stop_in_output = number % 2 == 1
        plain = fleet.generate(request)
        request.keep_state = True
        kept = fleet.generate(request)
        # What the client sees is the same in everything.
        assert kept.finished.match.stop_string == plain.finished.match.stop_string != ""
        assert kept.text == plain.text
        assert list(kept.token_ids) == list(plain.token_ids)
        assert kept.finished.usage.completion_tokens == plain.finished.usage.completion_tokens
        assert kept.finished.session.output_tokens == len(kept.token_ids) == kept.finished.usage.completion_tokens
        expect_goes_on(fleet, model, conversation + list(kept.token_ids), kept.finished.session.handle)


@pytest.mark.parametrize("model", MODELS)
def test_turns_that_end_at_the_time_limit_go_on(fleet, model):
    conversation = [2] + ids_of(60, 1)
    for limit in [0.3, 1, 4]:
        stopping = pb.StoppingParams(max_new_tokens=6000, ignore_eos=True, time_limit_seconds=limit)
        kept = fleet.generate(tokens(conversation, model, keep_state=True, sampling=greedy(), stopping=stopping))
        assert kept.finished.reason == pb.FINISH_REASON_TIME_LIMIT
        if kept.finished.HasField("session"):
            break
    assert kept.finished.session.output_tokens == len(kept.token_ids) > 0
    expect_goes_on(fleet, model, conversation + list(kept.token_ids), kept.finished.session.handle)


def test_a_chat_turn_is_closed_after_a_stop_string(fleet):
    asked = chat("What is the capital of France?", GEMMA, keep_state=True, sampling=greedy())
    text = fleet.generate(asked).text
    asked.stopping.stop[:] = [text[len(text) // 2:][:2]]
    first = fleet.generate(asked)
    assert first.finished.match.stop_string and first.finished.session.handle
    settle(fleet)
    second = fleet.generate(chat("And of Italy?", GEMMA, session=first.finished.session.handle, sampling=greedy()))
    prompt = fleet.inference.Tokenize(pb.TokenizeRequest(model=GEMMA, chat=asked.chat)).ids
    between = "<end_of_turn>\n<start_of_turn>user\nAnd of Italy?<end_of_turn>\n<start_of_turn>model\n"
    closed = fleet.inference.Tokenize(pb.TokenizeRequest(
        model=GEMMA, text=pb.TextPrompt(text=between, add_bos=False, parse_special=True))).ids
    whole = fleet.generate(tokens([*prompt, *first.token_ids, *closed], GEMMA, sampling=greedy()))
    assert list(second.token_ids) == list(whole.token_ids)
    assert second.finished.usage.prompt_tokens == whole.finished.usage.prompt_tokens
    assert second.finished.usage.cached_prompt_tokens == len(prompt) + len(first.token_ids) - 1


def test_one_handle_goes_on_many_times(fleet):
    first = fleet.generate(tokens([2] + ids_of(90, 3), RECURRENT, keep_state=True, **TURNS["length"]))
    settle(fleet)
    handle = first.finished.session.handle

    def go_on(seed):
        request = tokens(ids_of(9, 4), RECURRENT, session=handle, keep_state=True, **TURNS["length"])
        request.sampling.seed = seed
        return fleet.generate(request)

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(go_on, [1, 2, 1, 2, 3, 1]))
    ids = [list(answer.token_ids) for answer in answers]
    assert ids[0] == ids[2] == ids[5] and ids[1] == ids[3] and ids[0] != ids[1]
    assert len({answer.finished.session.handle for answer in answers}) == 6, "each continuation has its own"


def expect_expired(call):
    failure = failure_of(call)
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "SESSION_EXPIRED")
    assert "whole conversation" in failure.message


def test_handles_are_bound_to_their_callers(fleet):
    mine = [("authorization", "Bearer one")]
    request = tokens([2] + ids_of(40, 3), GEMMA, keep_state=True, **TURNS["length"])
    first = fleet.inference.Generate(request, metadata=mine, timeout=60)
    settle(fleet)
    again = tokens(ids_of(5, 1), GEMMA, session=first.finished.session.handle, **TURNS["length"])
    expect_expired(lambda: fleet.inference.Generate(again, metadata=[("authorization", "Bearer two")], timeout=60))
    expect_expired(lambda: fleet.inference.Generate(again, metadata=[("x-api-key", "Bearer two")], timeout=60))
    expect_expired(lambda: fleet.generate(again))
    assert fleet.inference.Generate(again, metadata=mine, timeout=60).finished.usage.cached_prompt_tokens > 0


def test_what_is_no_handle_finds_nothing(fleet):
    first = fleet.generate(tokens([2] + ids_of(40, 3), GEMMA, keep_state=True, **TURNS["length"]))
    settle(fleet)
    handle = first.finished.session.handle
    for wrong in [handle[:-1], handle + "0", handle.upper().replace("0", "A"), "x" * 48, "../" * 16, "\u00e9" * 24,
                  handle[:16] + "0" * 32, handle[:47] + ("0" if handle[47] != "0" else "1")]:
        expect_expired(lambda: fleet.generate(tokens([1000], GEMMA, session=wrong, **TURNS["length"])))
    # Of another model.
    expect_expired(lambda: fleet.generate(tokens([1000], RECURRENT, session=handle, **TURNS["length"])))
    # Where its worker was is only a hint.
    assert fleet.generate(tokens([1000], GEMMA, session="0" * 16 + handle[16:], **TURNS["length"])).token_ids


def test_bad_requests_are_named(fleet):
    failure = failure_of(lambda: fleet.generate(tokens([2, 1000], GEMMA, keep_state=True, n=2)))
    assert failure.code == grpc.StatusCode.INVALID_ARGUMENT and "keep_state" in failure.violations
    first = fleet.generate(tokens([2] + ids_of(40, 3), GEMMA, keep_state=True, **TURNS["length"]))
    settle(fleet)
    failure = failure_of(lambda: fleet.generate(
        pb.GenerateRequest(model=GEMMA, session=first.finished.session.handle)))
    assert failure.code == grpc.StatusCode.INVALID_ARGUMENT and "prompt" in failure.violations


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "sessions"


def test_sessions_expire(launch_for_test, directory):
    fleet = launch_for_test(prefill_flags=NO_CACHE, decode_flags=["--session-ttl", "0.5", "--session-dir", str(directory)])
    first = fleet.generate(tokens([2] + ids_of(40, 3), GEMMA, keep_state=True, **TURNS["length"]))
    handle = first.finished.session.handle
    assert 0 < first.finished.session.expires_in_seconds <= 0.5

    def gone():
        try:
            fleet.generate(tokens([1000], GEMMA, session=handle, **TURNS["length"]))
        except grpc.RpcError as error:
            return error.code() == grpc.StatusCode.NOT_FOUND
        return False

    wait_until(gone, "the session expires")
    wait_until(lambda: not os.listdir(directory), "its file goes")
    fleet.wait_idle()


def test_sessions_can_be_off(launch_for_test):
    fleet = launch_for_test(prefill_flags=NO_CACHE, decode_flags=["--session-ttl", "0"])
    first = fleet.generate(tokens([2] + ids_of(40, 3), GEMMA, keep_state=True, **TURNS["length"]))
    assert not first.finished.HasField("session")
    fleet.wait_idle()


def test_any_worker_goes_on_from_a_shared_directory(launch_for_test, directory):
    fleet = launch_for_test(prefill_flags=NO_CACHE, decode=2, decode_flags=["--session-dir", str(directory)])
    conversation = [2] + ids_of(120, 3)
    first = fleet.generate(tokens(conversation, GEMMA, keep_state=True, **TURNS["length"]))
    holder = next(d for d in fleet.decodes if d.value("baton_sessions", place="memory"))
    wait_until(lambda: holder.value("baton_session_events_total", event="written") == 1, "it is written")
    assert [os.stat(directory / name).st_mode & 0o777 for name in os.listdir(directory)] == [0o600]
    holder.kill()
    fleet.wait_ready(decode=1)
    second = fleet.generate(tokens(ids_of(9, 5), GEMMA, session=first.finished.session.handle, **TURNS["length"]))
    whole = fleet.generate(tokens(conversation + list(first.token_ids) + ids_of(9, 5), GEMMA, **TURNS["length"]))
    assert list(second.token_ids) == list(whole.token_ids)
    assert second.finished.usage.cached_prompt_tokens == len(conversation) + len(first.token_ids) - 1


def test_a_dead_worker_takes_its_sessions_along(launch_for_test):
    fleet = launch_for_test(prefill_flags=NO_CACHE, decode=2)
    first = fleet.generate(tokens([2] + ids_of(40, 3), GEMMA, keep_state=True, **TURNS["length"]))
    holder = next(d for d in fleet.decodes if d.value("baton_sessions", place="memory"))
    holder.kill()
    expect_expired(lambda: fleet.generate(tokens([1000], GEMMA, session=first.finished.session.handle,
                                                 **TURNS["length"])))


def test_damaged_files_are_never_decoded(launch_for_test, directory):
    fleet = launch_for_test(prefill_flags=NO_CACHE, decode_flags=spilling(directory))
    fleet.kept_in = directory
    conversation = [2] + ids_of(120, 3)
    first = fleet.generate(tokens(conversation, GEMMA, keep_state=True, **TURNS["length"]))
    settle(fleet)
    again = tokens(ids_of(9, 5), GEMMA, session=first.finished.session.handle, **TURNS["length"])
    expected = list(fleet.generate(again).token_ids)
    path = directory / os.listdir(directory)[0]
    whole = path.read_bytes()
    expires = os.stat(path)

    def replace(contents):
        path.write_bytes(contents)
        os.utime(path, ns=(expires.st_atime_ns, expires.st_mtime_ns))

    # The tokens are there, their state is not: they are computed.
    for contents in [whole[:len(whole) // 2], whole[:-1], whole[:-100] + bytes(100),
                     whole[:5000] + b"\xff" * 64 + whole[5064:]]:
        replace(contents)
        answer = fleet.generate(again)
        assert list(answer.token_ids) == expected
        assert answer.finished.usage.cached_prompt_tokens == 0
    # Nothing is there that could be believed.
    for contents in [b"", whole[:100], os.urandom(len(whole)), bytes([whole[0] ^ 1]) + whole[1:],
                     whole[:20] + b"\x00" + whole[21:], whole[:200] + b"\xff" + whole[201:]]:
        replace(contents)
        expect_expired(lambda: fleet.generate(again))
    replace(whole)
    assert list(fleet.generate(again).token_ids) == expected


def test_kept_sessions_give_way_to_requests(launch_for_test):
    # Room for a few sequences of this size.
    fleet = launch_for_test(prefill_flags=NO_CACHE, decode_memory="12MiB", decode_flags=["--session-memory", "12MiB"])
    request = tokens([2] + ids_of(1500, 3), GEMMA, keep_state=True, **TURNS["length"])
    handles = [fleet.generate(request).finished.session.handle for _ in range(12)]
    decode = fleet.decodes[0]
    assert decode.value("baton_session_events_total", event="evicted") > 0
    expect_expired(lambda: fleet.generate(tokens([1000], GEMMA, session=handles[0], **TURNS["length"])))
    # The last one is still there.
    assert fleet.generate(tokens([1000], GEMMA, session=handles[-1], **TURNS["length"])).token_ids
