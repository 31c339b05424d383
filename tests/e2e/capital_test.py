"""The first thing a user tries, on both bundled models at once; and the references, through the real gateway."""
import json
import threading

import pytest

from baton.v1 import inference_pb2 as pb
from fleet import GEMMA, RECURRENT, TRAINED
from messages import Answer, chat, greedy, tokens

# bf16 weights with f32 references: closer calls than this may go either way.
MARGIN = 0.25
PROMPTS = json.loads((TRAINED / "prompts.json").read_text())["prompts"]
EXPECTED = json.loads((TRAINED / "expected.json").read_text())


@pytest.fixture(scope="module")
def fleet(launch):
    return launch(models=[GEMMA, RECURRENT])


@pytest.mark.parametrize("model", [GEMMA, RECURRENT])
def test_streams_the_capital_of_france(fleet, model):
    answer = Answer(fleet.stream(chat("What is the capital of France?", model, sampling=greedy())))
    assert answer.text == "The capital of France is Paris."
    assert answer.finished.reason == pb.FINISH_REASON_STOP
    assert answer.finished.match.eos_token_id == 5
    assert answer.started.model == model
    assert answer.started.prompt_tokens == answer.finished.usage.prompt_tokens == 18
    assert answer.finished.usage.completion_tokens == 12
    assert answer.finished.usage.total_tokens == 30
    assert 0 < answer.finished.timing.time_to_first_token_seconds <= answer.finished.timing.total_seconds


def test_two_models_at_once(fleet):
    answers = {}

    def ask(model, index):
        request = chat("What is the capital of France?", model, sampling=greedy())
        answers[model, index] = Answer(fleet.stream(request)).text

    threads = [threading.Thread(target=ask, args=(model, index)) for index in range(8) for model in (GEMMA, RECURRENT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 16
    assert set(answers.values()) == {"The capital of France is Paris."}


@pytest.mark.parametrize("model", [GEMMA, RECURRENT])
def test_unary_equals_stream(fleet, model):
    sampling = pb.SamplingParams(temperature=1.2, top_k=100, top_p=0.97, repetition_penalty=1.1, seed=77)
    request = pb.GenerateRequest(model=model, text=pb.TextPrompt(text="In the beginning"), sampling=sampling,
                                 stopping=pb.StoppingParams(max_new_tokens=40),
                                 output=pb.OutputParams(logprobs=True, top_logprobs=3, prompt_logprobs=True))
    streamed = Answer(fleet.stream(request))
    whole = fleet.generate(request)
    assert whole.text == streamed.text
    assert list(whole.token_ids) == streamed.ids
    assert list(whole.logprobs) == streamed.logprobs
    assert list(whole.prompt_logprobs) == streamed.prompt_logprobs
    assert len(whole.logprobs) == len(whole.token_ids) == whole.finished.usage.completion_tokens
    assert len(whole.prompt_logprobs) == whole.finished.usage.prompt_tokens - 1
    assert whole.seed == streamed.started.seed == 77
    assert whole.finished.reason == streamed.finished.reason


def test_a_seed_that_was_drawn_can_be_used_again(fleet):
    request = chat("Tell me anything.", sampling=pb.SamplingParams(temperature=2),
                   stopping=pb.StoppingParams(max_new_tokens=30))
    first = fleet.generate(request)
    request.sampling.seed = first.seed
    assert list(fleet.generate(request).token_ids) == list(first.token_ids)
    request.sampling.seed = first.seed + 1
    assert list(fleet.generate(request).token_ids) != list(first.token_ids)


@pytest.mark.parametrize("model", [GEMMA, RECURRENT])
def test_reference_outputs(fleet, model):
    results = {result["id"]: result for result in EXPECTED["models"][model]["results"]}
    calls = []
    for prompt in PROMPTS:
        request = tokens(prompt["ids"], model, sampling=greedy(),
                         stopping=pb.StoppingParams(max_new_tokens=EXPECTED["limit"], include_stop_in_output=True))
        calls.append((prompt, fleet.inference.Generate.future(request, timeout=60)))
    compared = 0
    for prompt, call in calls:
        expected = results[prompt["id"]]
        # As far as the reference itself was sure.
        sure = next((i for i, margin in enumerate(expected["margins"]) if margin < MARGIN), len(expected["tokens"]))
        answer = call.result()
        assert list(answer.token_ids)[:sure] == expected["tokens"][:sure], prompt["text"]
        compared += sure
        if sure == len(expected["tokens"]) and expected["stopped"]:
            assert answer.finished.reason == pb.FINISH_REASON_STOP
            assert answer.finished.match.eos_token_id == expected["tokens"][-1]
    assert compared > 400


def test_chat_text_and_tokens_are_the_same_prompt(fleet):
    prompt = PROMPTS[0]
    question = "What is the capital of France?"
    parsed = pb.TextPrompt(text=prompt["text"], parse_special=True)
    assert list(fleet.inference.Tokenize(pb.TokenizeRequest(model=GEMMA, text=parsed)).ids) == prompt["ids"]
    messages = pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content=question)])
    tokenized = fleet.inference.Tokenize(pb.TokenizeRequest(model=GEMMA, chat=messages))
    assert list(tokenized.ids) == prompt["ids"]
    assert b"".join(tokenized.pieces).decode() == "<bos>" + prompt["text"]
    answers = {fleet.generate(request).text for request in (
        chat(question, sampling=greedy()), tokens(prompt["ids"], sampling=greedy()),
        pb.GenerateRequest(model=GEMMA, text=parsed, sampling=greedy()))}
    assert answers == {"The capital of France is Paris."}


def test_text_never_becomes_a_control_token(fleet):
    text = "<start_of_turn>user\nHi<end_of_turn><eos>"
    ids = fleet.inference.Tokenize(pb.TokenizeRequest(model=GEMMA, text=pb.TextPrompt(text=text))).ids
    assert ids[0] == 2 and all(token > 5 for token in ids[1:])
    plain = fleet.inference.Detokenize(pb.DetokenizeRequest(model=GEMMA, ids=ids))
    assert plain.text == text
    named = fleet.inference.Detokenize(pb.DetokenizeRequest(model=GEMMA, ids=ids, keep_special=True))
    assert named.text == "<bos>" + text


def test_stop_strings_and_limits(fleet):
    question = "Count from 3 to 12."
    full = fleet.generate(chat(question, sampling=greedy())).text
    assert full.startswith("3, 4, 5, 6")
    stopping = pb.StoppingParams(stop=[", 6", "nothing"])
    answer = Answer(fleet.stream(chat(question, sampling=greedy(), stopping=stopping)))
    assert answer.text == "3, 4, 5"
    assert answer.finished.reason == pb.FINISH_REASON_STOP
    assert answer.finished.match.stop_string == ", 6"
    stopping.include_stop_in_output = True
    assert fleet.generate(chat(question, sampling=greedy(), stopping=stopping)).text == "3, 4, 5, 6"
    limited = fleet.generate(chat(question, sampling=greedy(), stopping=pb.StoppingParams(max_new_tokens=1)))
    assert limited.text == "3"
    assert limited.finished.reason == pb.FINISH_REASON_LENGTH
    assert limited.finished.usage.completion_tokens == 1
    stopping = pb.StoppingParams(stop_token_ids=[limited.token_ids[0]], max_new_tokens=20, min_new_tokens=5)
    answer = fleet.generate(chat(question, sampling=greedy(), stopping=stopping))
    assert answer.finished.usage.completion_tokens >= 5
    assert limited.token_ids[0] not in answer.token_ids[:4]


def test_lists_models_and_fleet(fleet):
    cards = {card.name: card for card in fleet.inference.ListModels(pb.ListModelsRequest()).models}
    assert set(cards) == {GEMMA, RECURRENT}
    assert cards[GEMMA].family == "gemma2" and cards[RECURRENT].family == "recurrent_gemma"
    for card in cards.values():
        assert card.ready and card.vocab_size == 2048 and card.prefill_workers == card.decode_workers == 1
        assert list(card.eos_token_ids) == [1, 5] and len(card.fingerprint) == 64
    assert cards[GEMMA].fingerprint != cards[RECURRENT].fingerprint
    status = fleet.fleet.GetStatus(pb.GetStatusRequest())
    assert {(worker.role, worker.model, worker.state) for worker in status.workers} == {
        (role, model, "SERVING") for role in ("prefill", "decode") for model in (GEMMA, RECURRENT)}


def test_all_processes_are_healthy(fleet):
    for process in fleet.processes():
        assert process.health() == "SERVING"
    for service in ("baton.v1.Inference", "baton.v1.Fleet"):
        assert fleet.gateway.health(service) == "SERVING"
    for worker in fleet.workers():
        for service in ("Worker", worker.role.capitalize()):
            assert worker.health(f"baton.worker.v1.{service}") == "SERVING"


def test_leaves_nothing_behind(fleet):
    fleet.wait_idle()
