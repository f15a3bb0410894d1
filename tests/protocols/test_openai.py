import json

import httpx
import openai
import pytest

PROMPT, SUFFIX = "import os\n\n\ndef size(path):\n    return os.path.", "\n\n\nprint(size('a'))\n"


@pytest.fixture
def client(server_url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server_url}/v1", api_key="none", http_client=httpx.Client(trust_env=False))


def test_a_completion(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="any", prompt=PROMPT, suffix=SUFFIX, max_tokens=20)
    assert answer.object == "text_completion"
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens <= 20
    again = client.completions.create(model="any", prompt=PROMPT, suffix=SUFFIX, max_tokens=20)
    assert again.usage
    assert again.usage.prompt_tokens_details
    assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens - 1


def test_a_stream_is_the_completion_in_pieces(client: openai.OpenAI) -> None:
    options = {"model": "any", "prompt": PROMPT, "suffix": SUFFIX, "max_tokens": 40, "temperature": 0.8, "seed": 4}
    client.completions.create(**options)  # from now on the prompt comes from the cache in both ways
    whole = client.completions.create(**options)
    chunks = list(client.completions.create(stream=True, **options))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_stream_on_the_wire(http: httpx.Client) -> None:
    response = http.post("/v1/completions", json={"prompt": PROMPT, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, done, end = response.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    for event in events:
        assert event.startswith("data: ")
        assert json.loads(event.removeprefix("data: "))["choices"]


def test_stop_strings(client: openai.OpenAI) -> None:
    for seed in range(8):  # until one writes something
        options = {"model": "any", "prompt": PROMPT, "max_tokens": 60, "temperature": 1.0, "seed": seed}
        if text := client.completions.create(**options).choices[0].text:
            break
    for stop in (text[-1], ["never written", text[-1]]):
        answer = client.completions.create(stop=stop, **options)
        assert answer.choices[0].text == text[: text.index(text[-1])]
        assert answer.choices[0].finish_reason == "stop"


def test_null_means_the_default(http: httpx.Client) -> None:
    names = ("suffix", "max_tokens", "temperature", "top_p", "seed", "stop", "n", "echo", "stream", "user", "logprobs")
    response = http.post("/v1/completions", json={"prompt": PROMPT, **dict.fromkeys(names)})
    assert response.status_code == 200, response.text
    assert response.json()["usage"]["completion_tokens"] <= 16


def test_several_choices(client: openai.OpenAI) -> None:
    options = {"model": "any", "prompt": PROMPT, "suffix": SUFFIX, "max_tokens": 20}
    answer = client.completions.create(n=4, **options)
    assert [choice.index for choice in answer.choices] == list(range(len(answer.choices)))
    texts = [choice.text for choice in answer.choices]
    assert 2 <= len(texts) == len(set(texts)) <= 4
    assert texts[0] == client.completions.create(**options).choices[0].text
    assert answer.usage
    assert answer.usage.completion_tokens > 20


def test_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id


def test_errors_are_those_of_the_library(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"n: .*5"):
        client.completions.create(model="any", prompt="x", n=6)
    with pytest.raises(openai.BadRequestError, match=r"n: only 1 with stream"):
        client.completions.create(model="any", prompt="x", n=2, stream=True)
    with pytest.raises(openai.BadRequestError, match="echo"):
        client.completions.create(model="any", prompt="x", echo=True)
