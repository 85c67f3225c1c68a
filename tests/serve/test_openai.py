#!/usr/bin/env python3
"""The official `openai` client against `lockstep serve` with two ranks.

    test_openai.py LOCKSTEP MPIRUN CHAT_MODEL
"""
import asyncio
import json
import os
import sys
import tempfile
import unittest

try:
    import openai
except ImportError:
    print("no openai here: python3 -m pip install -r tests/serve/requirements.txt")
    sys.exit(77)

import test_server
from test_server import PROMPT, SLOW, Server


class Client(unittest.TestCase):
    words = ()

    @classmethod
    def setUpClass(cls):
        cls.server = Server(*cls.words, *SLOW)
        url = f"http://127.0.0.1:{cls.server.port}/v1"
        cls.client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        cls.url = url

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        code, said = cls.server.stop()
        assert code == 0, said


class Completions(Client):
    def ask(self, **more):
        return self.client.completions.create(model="kjv-qwen3-3m", prompt=PROMPT, temperature=0,
                                              max_tokens=16, **more)

    def test_whole_and_streamed(self):
        whole = self.ask()
        self.assertEqual((whole.usage.completion_tokens, whole.choices[0].finish_reason), (16, "length"))
        parts = list(self.ask(stream=True, stream_options={"include_usage": True}))
        self.assertEqual("".join(p.choices[0].text for p in parts if p.choices), whole.choices[0].text)
        self.assertEqual(parts[-1].usage, whole.usage)

    def test_logprobs(self):
        c = self.ask(logprobs=2).choices[0]
        self.assertEqual("".join(c.logprobs.tokens), c.text)
        for token, lp, top in zip(c.logprobs.tokens, c.logprobs.token_logprobs, c.logprobs.top_logprobs,
                                  strict=True):
            self.assertLessEqual(lp, 0)
            self.assertEqual(top[token], lp)
            self.assertEqual(max(top.values()), lp)  # greedy

    def test_errors(self):
        with self.assertRaises(openai.NotFoundError) as e:
            self.client.completions.create(model="gpt-5", prompt="x")
        self.assertEqual(e.exception.code, "model_not_found")
        for param, more in (("n", {"n": 2}), ("echo", {"echo": True}), ("suffix", {"suffix": "x"}),
                            ("logit_bias", {"logit_bias": {"x": 1}}),
                            ("top_k", {"extra_body": {"top_k": -2}}),
                            ("stream_options", {"stream_options": {"include_usage": True}})):
            with self.subTest(param=param), self.assertRaises(openai.BadRequestError) as e:
                self.ask(**more)
            self.assertEqual(e.exception.param, param)

    def test_logit_bias(self):
        free = self.ask(logprobs=0).choices[0].logprobs.tokens
        self.assertEqual(self.ask(logit_bias={"0": -100}, logprobs=0).choices[0].logprobs.tokens, free)
        forced = self.ask(logit_bias={"300": 100}, logprobs=0).choices[0].logprobs.tokens
        self.assertEqual(len(set(forced)), 1)
        self.assertNotEqual(forced, free)

    def test_cancel(self):
        before = self.server.metric("request_cancelled_total")
        stream = self.client.completions.create(model="kjv-qwen3-3m", prompt=PROMPT, max_tokens=900,
                                                stream=True, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
        self.server.wait_for("request_cancelled_total", before + 1)
        self.server.wait_for("num_requests_running", 0)

    def test_many_at_once(self):
        async def run():
            async with openai.AsyncOpenAI(base_url=self.url, api_key="none", max_retries=0) as client:
                return await asyncio.gather(*(
                    client.completions.create(model="kjv-qwen3-3m", prompt=PROMPT, temperature=0,
                                              max_tokens=4 + i) for i in range(12)))
        texts = [c.choices[0].text for c in asyncio.run(run())]
        for shorter, longer in zip(texts, texts[1:]):
            self.assertTrue(longer.startswith(shorter), (shorter, longer))

    def test_async_streams(self):
        """Side by side, and one that is left in the middle."""
        before = self.server.metric("request_cancelled_total")

        async def read(client, n):
            parts = await client.completions.create(model="kjv-qwen3-3m", prompt=PROMPT, temperature=0, max_tokens=n,
                                                    stream=True)
            return "".join([p.choices[0].text async for p in parts])

        async def leave(client):
            async with await client.completions.create(model="kjv-qwen3-3m", prompt=PROMPT, max_tokens=900, stream=True,
                                                       extra_body={"ignore_eos": True}) as parts:
                async for _ in parts:
                    return

        async def run():
            async with openai.AsyncOpenAI(base_url=self.url, api_key="none", max_retries=0) as client:
                return await asyncio.gather(*(read(client, 8 + i) for i in range(3)), leave(client))
        texts = asyncio.run(run())[:3]
        self.assertTrue(texts[0])
        for shorter, longer in zip(texts, texts[1:]):
            self.assertTrue(longer.startswith(shorter), (shorter, longer))
        self.server.wait_for("request_cancelled_total", before + 1)
        self.server.wait_for("num_requests_running", 0)

    def test_models(self):
        self.assertEqual([m.id for m in self.client.models.list()], ["kjv-qwen3-3m"])
        self.assertEqual(self.client.models.retrieve("kjv-qwen3-3m").id, "kjv-qwen3-3m")


CALL = '{"name": "f", "arguments": {"x": 1}}'
# Whole calls, or what is left of them, as tokens that the model does not know of, from this id on.
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
SCRIPT = {1016: f"<tool_call>\n{CALL}\n</tool_call>", 1017: 'f", "arguments": {"x": 1}}\n</tool_call>',
          1018: ' {"x": 1}}\n</tool_call>'}


def scripted_model(folder):
    for name in os.listdir(MODEL):
        if name != "tokenizer.json":
            os.symlink(os.path.join(MODEL, name), os.path.join(folder, name))
    with open(os.path.join(MODEL, "tokenizer.json"), encoding="utf-8") as f:
        tokenizer = json.load(f)
    like = next(a for a in tokenizer["added_tokens"] if not a["special"])
    tokenizer["added_tokens"] += [{**like, "id": i, "content": text} for i, text in SCRIPT.items()]
    with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as f:
        json.dump(tokenizer, f)


class Chats(Client):
    """A model of random weights with a chat template: what counts is the form."""

    @classmethod
    def setUpClass(cls):
        folder = cls.enterClassContext(tempfile.TemporaryDirectory())
        scripted_model(folder)
        cls.words = ("--model", folder, "--served-model-name", "chat")
        super().setUpClass()

    def ask(self, **more):
        return self.client.chat.completions.create(
            model="chat", messages=[{"role": "system", "content": "Be brief."},
                                    {"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
            temperature=0, max_completion_tokens=8, **more)

    def test_whole_and_streamed(self):
        whole = self.ask(extra_body={"ignore_eos": True})
        self.assertEqual(whole.choices[0].message.role, "assistant")
        self.assertEqual(whole.usage.completion_tokens, 8)
        parts = list(self.ask(stream=True, extra_body={"ignore_eos": True}))
        self.assertEqual(parts[0].choices[0].delta.role, "assistant")
        self.assertEqual("".join(p.choices[0].delta.content or "" for p in parts),
                         whole.choices[0].message.content)
        self.assertEqual(parts[-1].choices[0].finish_reason, "length")

    def test_errors(self):
        """What is not there is refused by its name."""
        for param, more in (
                ("tool_choice", {"tools": [TOOL], "tool_choice": {"type": "function",
                                                                  "function": {"name": "g"}}}),
                ("functions", {"functions": [{"name": "f"}]}),
                ("response_format", {"response_format": {"type": "json_object"}}),
                ("top_logprobs", {"top_logprobs": 3})):
            with self.subTest(param=param), self.assertRaises(openai.BadRequestError) as e:
                self.ask(**more)
            self.assertEqual(e.exception.param, param)
        with self.assertRaises(openai.BadRequestError) as e:
            self.client.chat.completions.create(model="chat", messages=[{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "data:,"}}]}])
        self.assertEqual(e.exception.param, "messages[0].content[0]")

    def test_tools(self):
        """Offered, the prompt has them; with "none" it is as if there were none."""
        plain = self.ask().usage.prompt_tokens
        self.assertGreater(self.ask(tools=[TOOL], parallel_tool_calls=False).usage.prompt_tokens, plain)
        self.assertEqual(self.ask(tools=[TOOL], tool_choice="none").usage.prompt_tokens, plain)

    def test_calls(self):
        """The model is made to say one token of the script."""
        for token, choice in ((1016, "auto"), (1017, "required"),
                              (1018, {"type": "function", "function": {"name": "f"}})):
            more = {"tools": [TOOL], "tool_choice": choice, "logit_bias": {str(token): 100}, "stop": "</tool_call>"}
            with self.subTest(tool_choice=choice):
                whole = self.ask(**more).choices[0]
                self.assertEqual((whole.finish_reason, whole.message.content), ("tool_calls", None))
                call, = whole.message.tool_calls
                self.assertEqual((call.type, call.function.name, json.loads(call.function.arguments)),
                                 ("function", "f", {"x": 1}))
                parts = [p.choices[0] for p in self.ask(stream=True, **more)]
                deltas = [c for p in parts for c in p.delta.tool_calls or []]
                self.assertEqual([(d.index, d.function.name) for d in deltas], [(0, "f")])
                self.assertEqual(json.loads(deltas[0].function.arguments), {"x": 1})
                self.assertEqual(parts[-1].finish_reason, "tool_calls")

    def test_logprobs(self):
        entries = self.ask(logprobs=True, top_logprobs=3).choices[0].logprobs.content
        for e in entries:
            self.assertEqual(len(e.top_logprobs), 3)
            self.assertEqual(e.top_logprobs[0].logprob, e.logprob)


if __name__ == "__main__":
    test_server.LOCKSTEP, test_server.MPIRUN, MODEL = os.path.abspath(sys.argv[1]), sys.argv[2], os.path.abspath(sys.argv[3])
    unittest.main(argv=sys.argv[:1], verbosity=2)
